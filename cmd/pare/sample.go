package main

import (
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pare-dev/pare/internal/fault"
	booksllama "github.com/pare-dev/pare/testdata/books-llama"
)

// writeSample puts the embedded model, adapter and texts into dir, a folder that may exist.
func writeSample(dir string, force bool) error {
	return writeEmbedded(booksllama.Files, dir, force)
}

// writeEmbedded puts files into dir. Those that are there already with the same content are left alone.
func writeEmbedded(files fs.FS, dir string, force bool) error {
	return fs.WalkDir(files, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dir, filepath.FromSlash(p))
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		data, err := fs.ReadFile(files, p)
		if err != nil {
			return err
		}
		if old, err := os.ReadFile(to); err == nil && string(old) != string(data) && !force {
			return &fault.Error{File: to, Err: fault.As(fault.ErrMisuse, fs.ErrExist), Hint: "choose another folder, or --force"}
		} else if err == nil {
			return nil
		}
		tmp := to + ".tmp"
		if err := os.WriteFile(tmp, data, 0o644); err != nil {
			return err
		}
		return os.Rename(tmp, to)
	})
}
