package pack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pare-dev/pare/internal/diskfile"
	"github.com/pare-dev/pare/internal/fault"
)

// ErrExists is the reason when a package is in the way.
var ErrExists = errors.New("already exists")

// ErrForeign is the reason when what is in the way is more than a package.
var ErrForeign = errors.New("is not a package and is not replaced")

// Free fails with misuse when something lies at path and force is not set, or what is neither a file nor
// a folder.
func Free(path string, force bool) error {
	if err := diskfile.Special(path); err != nil {
		return &fault.Error{File: path, Err: fault.As(fault.ErrMisuse, err), Hint: "name a file or a folder"}
	}
	if _, err := os.Lstat(path); err == nil && !force {
		return &fault.Error{File: path, Err: fault.As(fault.ErrMisuse, ErrExists), Hint: "pass --force to replace it"}
	}
	return nil
}

// Replaceable fails with misuse when a package may not go to path: something is there and force is
// not set, or it is a folder with files that no package lists, which may be somebody's work.
func Replaceable(path string, force bool) error {
	if err := Free(path, force); err != nil {
		return err
	}
	if st, err := os.Lstat(path); err != nil || !st.IsDir() {
		return nil
	}
	foreign := func(what string) error {
		return &fault.Error{File: path, Err: fault.As(fault.ErrMisuse, fmt.Errorf("%w: it holds %s", ErrForeign, what)), Hint: "move it away, or choose another -o"}
	}
	listed := map[string]bool{}
	if m, err := ReadManifest(path); err == nil {
		listed[ManifestName] = true
		for _, f := range m.Files {
			listed[f.Path] = true
		}
	}
	var found error
	err := filepath.WalkDir(path, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(path, file)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if !listed[rel] && !(listed[ManifestName] && isReport(rel)) {
			found = foreign(rel)
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		return &fault.Error{File: path, Op: "package", Err: plain(err)}
	}
	return found
}
