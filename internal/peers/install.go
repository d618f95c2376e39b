package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// tool is one thing that install.py fetched or compiled, or why it is not there.
type tool struct {
	Probe   string `json:"probe"`   // a program that was compiled
	Library string `json:"library"` // what it loads
	Prefix  string `json:"prefix"`  // of the library's symbols
	Python  string `json:"python"`  // an interpreter that has the package
	Version string `json:"version"`
	Why     string `json:"why"`
}

type tools struct {
	Machine     tool `json:"machine"`
	Llama       tool `json:"llama"`
	OpenBLAS    tool `json:"openblas"`
	Debian      tool `json:"debian"`
	NumPy       tool `json:"numpy"`
	ONNXRuntime tool `json:"onnxruntime"`
	MiniLM      tool `json:"minilm"`
	Torch       tool `json:"torch"`
}

// scripts is the folder of this package's sources: `go run` is called in the root of the repository.
const scripts = "internal/peers"

// install runs install.py, whose last line says what there is.
func install(ctx context.Context, cache string) (*tools, error) {
	cmd := exec.CommandContext(ctx, "python3", filepath.Join(scripts, "install.py"), cache)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("install.py: %w", err)
	}
	return parseTools(out)
}

func parseTools(out []byte) (*tools, error) {
	out = bytes.TrimSpace(out)
	t := &tools{}
	if err := json.Unmarshal(out[bytes.LastIndexByte(out, '\n')+1:], t); err != nil {
		return nil, fmt.Errorf("install.py: %w", err)
	}
	return t, nil
}

// about lists the versions of some of them, and what is missing.
func (t *tools) about(names []string) (list []string) {
	for _, x := range []struct {
		name string
		tool tool
	}{
		{"llama.cpp", t.Llama},
		{"OpenBLAS of PyPI", t.OpenBLAS},
		{"OpenBLAS of Debian", t.Debian},
		{"NumPy", t.NumPy},
		{"ONNX Runtime", t.ONNXRuntime},
		{"PyTorch", t.Torch},
	} {
		switch {
		case !slices.Contains(names, x.name):
		case x.tool.Why != "":
			list = append(list, fmt.Sprintf("%s could not be had (%s)", x.name, x.tool.Why))
		default:
			list = append(list, x.tool.Version)
		}
	}
	return list
}
