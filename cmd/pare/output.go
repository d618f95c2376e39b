package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pare-dev/pare/internal/diskfile"
	"github.com/pare-dev/pare/internal/fault"
)

// needOut is the check of a verb that writes but was not told where.
func needOut(out string) error {
	switch out {
	case "":
		return misuse("add -o and a path", "nowhere to write: --out is missing")
	case "-":
		return misuse("give -o a path", "a model is not written to stdout: files are renamed into place when they are complete")
	}
	return nil
}

// graphOut fails when the choices of an output name another format than ONNX, which graphs that were worked on are
// written in.
func (fl *stepFlags) graphOut() error {
	if err := needOut(fl.out); err != nil {
		return err
	}
	if fl.to != "" && fl.to != "onnx" {
		return flagFault("to", misuse("leave it out", "a graph is written as ONNX, not as %s", fl.to))
	}
	if !fl.writesGraph() {
		return flagFault("out", misuse("call it "+strings.TrimSuffix(fl.out, filepath.Ext(fl.out))+".onnx", "%s is no name of an ONNX file, which a graph is written to", fl.out))
	}
	if fl.pre != "" {
		return flagFault("pre", misuse("leave it out", "a graph has no pre-tokenizer"))
	}
	return free(fl.out, fl.force)
}

// ordinary fails when what lies at path is neither a file nor a folder.
func ordinary(path string) error {
	if err := diskfile.Special(path); err != nil {
		return &fault.Error{File: path, Err: fault.As(fault.ErrMisuse, err), Hint: "name a file or a folder"}
	}
	return nil
}

// free fails when something lies where a verb wants to write, with --force only what is no file.
func free(path string, force bool) error {
	if err := ordinary(path); err != nil {
		return err
	}
	if force {
		return nil
	}
	if _, err := os.Lstat(path); err == nil {
		return &fault.Error{File: path, Err: fault.As(fault.ErrMisuse, fs.ErrExist), Hint: "--force replaces it"}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
