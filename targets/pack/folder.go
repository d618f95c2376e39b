package pack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sort"

	"github.com/pare-dev/pare/internal/fault"
)

// Seal completes a package folder whose model files and assets are in place: it lists and hashes
// every file, writes manifest.json and syncs all to disk. Equal contents give an equal manifest.
func Seal(ctx context.Context, dir string, m *Manifest, add func(int64)) error {
	m.Schema = Schema
	m.Files = nil
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if rel == ManifestName || isReport(rel) {
			return nil
		}
		if !d.Type().IsRegular() || !safePath(rel) {
			return fmt.Errorf("%q is not a file that can be packed", rel)
		}
		n, sum, err := hashFile(ctx, file, add)
		if err != nil {
			return err
		}
		m.Files = append(m.Files, File{Path: rel, Bytes: n, SHA256: sum})
		return syncFile(file)
	})
	if err != nil {
		return &fault.Error{File: dir, Op: "package", Err: err}
	}
	sort.Slice(m.Files, func(a, b int) bool { return m.Files[a].Path < m.Files[b].Path })
	b, err := m.JSON()
	if err != nil {
		return err
	}
	return WriteFile(filepath.Join(dir, ManifestName), b)
}

// Verify compares every file of a package folder with its manifest: sizes, digests, and that
// nothing is missing or beside it.
func Verify(ctx context.Context, dir string, m *Manifest, add func(int64)) error {
	listed := map[string]bool{ManifestName: true}
	var errs []error
	for _, f := range m.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		listed[f.Path] = true
		file := filepath.Join(dir, filepath.FromSlash(f.Path))
		st, err := os.Lstat(file)
		switch {
		case err != nil:
			errs = append(errs, &fault.Error{File: file, Op: "package", Err: plain(err)})
			continue
		case !st.Mode().IsRegular():
			errs = append(errs, &fault.Error{File: file, Op: "package", Err: fmt.Errorf("%w: not a regular file", ErrDigest)})
			continue
		case st.Size() != f.Bytes:
			errs = append(errs, &fault.Error{File: file, Op: "package", Err: fmt.Errorf("%w: %d bytes, %d expected", ErrDigest, st.Size(), f.Bytes), Hint: "copy the package again"})
			continue
		}
		_, sum, err := hashFile(ctx, file, add)
		switch {
		case err != nil:
			errs = append(errs, &fault.Error{File: file, Op: "package", Err: plain(err)})
		case sum != f.SHA256:
			errs = append(errs, &fault.Error{File: file, Op: "package", Err: fmt.Errorf("%w: sha256 %s", ErrDigest, sum), Hint: "copy the package again"})
		}
	}
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if rel = filepath.ToSlash(rel); err == nil && !listed[rel] && !isReport(rel) {
			errs = append(errs, &fault.Error{File: file, Op: "package", Err: fmt.Errorf("%w: the manifest does not list this file", ErrDigest)})
		}
		return err
	})
	return errors.Join(append(errs, err)...)
}

// Publish moves a finished folder or file to its place in one rename. What is there is replaced
// when force is set and it is a package: it moves aside first and is removed once the new one stands. from must lie on
// the same file system; otherwise it is copied beside the place first.
func Publish(ctx context.Context, from, to string, force bool) error {
	if err := Replaceable(to, force); err != nil {
		return err
	}
	dir, base := filepath.Split(to)
	if err := os.MkdirAll(filepath.Clean(dir+"."), 0o755); err != nil {
		return &fault.Error{File: to, Op: "publish", Err: plain(err)}
	}
	old := filepath.Join(dir, "."+base+".old")
	if err := os.RemoveAll(old); err != nil {
		return &fault.Error{File: old, Op: "publish", Err: plain(err)}
	}
	moved := false
	if _, err := os.Lstat(to); err == nil {
		if err := os.Rename(to, old); err != nil {
			return &fault.Error{File: to, Op: "publish", Err: err}
		}
		moved = true
	}
	err := os.Rename(from, to)
	if err != nil { // another file system, most likely
		partial := filepath.Join(dir, "."+base+".partial")
		if err = copyTree(ctx, from, partial); err == nil {
			err = os.Rename(partial, to)
		}
		if err != nil {
			_ = os.RemoveAll(partial)
		} else {
			_ = os.RemoveAll(from)
		}
	}
	if err != nil {
		if moved {
			_ = os.Rename(old, to) // what was there stays
		}
		return &fault.Error{File: to, Op: "publish", Err: err}
	}
	syncDir(filepath.Clean(dir + "."))
	return os.RemoveAll(old)
}

func copyTree(ctx context.Context, from, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(dst, 0o755)
		}
		r, err := os.Open(file)
		if err != nil {
			return err
		}
		defer r.Close()
		w, err := os.Create(dst)
		if err != nil {
			return err
		}
		_, err = copyContext(ctx, w, r, nil)
		return errors.Join(err, w.Sync(), w.Close())
	})
}

// WriteFile writes a small file whole or not at all: under another name, synced, then renamed.
func WriteFile(file string, b []byte) error {
	tmp := file + ".part"
	f, err := os.Create(tmp)
	if err != nil {
		return &fault.Error{File: file, Op: "write", Err: plain(err)}
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(tmp, file)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return &fault.Error{File: file, Op: "write", Err: err}
	}
	syncDir(filepath.Dir(file))
	return nil
}

func syncFile(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// syncDir makes a rename durable where the system can; Windows has no such call.
func syncDir(dir string) {
	if runtime.GOOS == "windows" {
		return
	}
	if f, err := os.Open(dir); err == nil {
		_ = f.Sync() // some file systems refuse; the rename itself is then as durable as it gets
		_ = f.Close()
	}
}
