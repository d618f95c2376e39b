package formats

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/diskfile"
	"github.com/pare-dev/pare/internal/fault"
)

// partial marks output that is being written. A name of its own for each output, always the same,
// so that what a killed run leaves is overwritten by the next.
const partial = ".partial"

// writeFile writes a file so that it appears under its name only when it is complete and on disk.
func writeFile(path string, fn func(w io.Writer) error) error {
	tmp := path + partial
	w, err := diskfile.Create(tmp)
	if err != nil {
		return err
	}
	if err := fn(w); err != nil {
		return errors.Join(err, w.Abandon(), os.Remove(tmp))
	}
	if err := w.Close(); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return syncDir(filepath.Dir(path))
}

// writeFolder fills a folder that appears under its name only when it is complete. An older folder
// there is replaced when it holds nothing but a model.
func writeFolder(path string, fn func(dir string) error) (err error) {
	if err := replaceable(path); err != nil {
		return err
	}
	tmp := path + partial
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil { //nolint:gosec // as mkdir does; the umask narrows it
		return err
	}
	if err := fn(tmp); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	if err := os.RemoveAll(path); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	return syncDir(filepath.Dir(path))
}

// errForeign is the reason when replacing a folder would remove what is not ours.
var errForeign = errors.New("the folder holds more than a model and is not replaced")

// Replaceable fails when a folder lies at path that holds more than a model, or what is neither a file
// nor a folder: writing a model there would remove it. A file there is the business of Write.
func Replaceable(path string) error {
	if err := diskfile.Special(path); err != nil {
		return &fault.Error{File: path, Err: fault.As(fault.ErrMisuse, err), Hint: "name a file or a folder"}
	}
	if st, err := os.Stat(path); err != nil || !st.IsDir() {
		return nil
	}
	if err := replaceable(path); err != nil {
		return &fault.Error{File: path, Err: fault.As(fault.ErrMisuse, unpath(err)), Hint: "choose another path, or move that away"}
	}
	return nil
}

func replaceable(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		n := e.Name()
		if e.IsDir() && stepFolder(filepath.Join(path, n)) {
			continue
		}
		if !e.Type().IsRegular() || !slices.Contains(assetNames, n) && n != indexName && !strings.HasSuffix(n, ".safetensors") {
			return fmt.Errorf("%w: %s", errForeign, n)
		}
	}
	return nil
}

// stepFolder reports a folder that holds no more than the configuration of a step of a sentence model.
func stepFolder(path string) bool {
	entries, err := os.ReadDir(path)
	return err == nil && len(entries) == 1 && entries[0].Name() == "config.json" && entries[0].Type().IsRegular()
}

// syncDir makes a rename last through a power cut, where the system can.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // folders cannot be synced there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
