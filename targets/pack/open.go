package pack

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
)

// IsPackage reports whether path is a package folder or archive, by content.
func IsPackage(path string) bool {
	st, err := os.Stat(path)
	if err != nil {
		return false
	}
	if st.IsDir() {
		_, err := os.Stat(filepath.Join(path, ManifestName))
		return err == nil
	}
	return isArchive(path)
}

// isArchive looks for the first header that Archive writes: the manifest, in a tar file.
func isArchive(file string) bool {
	if st, err := os.Stat(file); err != nil || !st.Mode().IsRegular() {
		return false // opening a pipe would wait for somebody to write into it
	}
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 512)
	if _, err := io.ReadFull(f, head); err != nil {
		return false
	}
	return string(head[:len(ManifestName)+1]) == ManifestName+"\x00" && string(head[257:262]) == "ustar"
}

// Open opens the model inside a package folder or archive after checking the digest of every file.
// An archive is unpacked into a temporary folder, which closing the model removes. The manifest's
// data is checked, so a package that was changed after it was made is refused with ErrDigest.
func Open(ctx context.Context, path string, add func(int64)) (m *ir.Model, man *Manifest, err error) {
	dir := path
	var tmp string
	if isArchive(path) {
		if tmp, err = os.MkdirTemp("", "pare-package-"); err != nil {
			return nil, nil, err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, os.RemoveAll(tmp))
			}
		}()
		dir = filepath.Join(tmp, "package")
		if man, err = Unpack(ctx, path, dir, add); err != nil {
			return nil, nil, err
		}
	} else {
		if man, err = ReadManifest(dir); err != nil {
			return nil, nil, err
		}
		if err = Verify(ctx, dir, man, add); err != nil {
			return nil, nil, err
		}
	}
	man.dir = dir
	m, err = formats.Open(ctx, man.ModelPath(dir))
	if err != nil {
		return nil, nil, err
	}
	m.Path = path
	if tmp != "" {
		m.Owns(removal(tmp))
	}
	return m, man, nil
}

// ModelPath is the place of the model of a package folder.
func (m *Manifest) ModelPath(dir string) string {
	return filepath.Join(dir, filepath.FromSlash(m.Model))
}

// OpenAny opens a package or any other model that package formats reads; the manifest is nil then.
func OpenAny(ctx context.Context, path string, add func(int64)) (*ir.Model, *Manifest, error) {
	if IsPackage(path) {
		return Open(ctx, path, add)
	}
	m, err := formats.Open(ctx, path)
	if inside := packagesIn(path); err != nil && len(inside) > 0 {
		err = &fault.Error{File: path, Err: fault.As(fault.ErrMisuse, errors.New("this folder holds packages and is none itself")), Hint: "name one of them: " + strings.Join(inside, ", ")}
	}
	return m, nil, err
}

// packagesIn lists the packages that lie in a folder.
func packagesIn(dir string) (found []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if p := filepath.Join(dir, e.Name()); IsPackage(p) {
			found = append(found, p)
		}
	}
	return found
}

// removal deletes a folder when the model over it is closed.
type removal string

func (r removal) Close() error { return os.RemoveAll(string(r)) }
