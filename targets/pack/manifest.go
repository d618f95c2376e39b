// Package pack lays a finished model out as a package: a folder, or one archive, with the model
// files that the target's runtimes load as they are, a manifest, and the assets of the source.
//
//	dist/arm64/model.gguf       what llama.cpp loads
//	dist/arm64/manifest.json    digests of every file, source, resolved recipe, requirements
//	dist/arm64/assets/...       config and tokenizer files of the source, when the container holds
//	                            them in another form
//	dist/arm64/report.html ...  how it compares; outside the manifest, for it holds timings
//
// Nothing that is hashed depends on the clock, the host or a path, so the same inputs and recipe
// give the same package digest.
package pack

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/targets/recipe"
)

// Schema is the version of manifest.json.
const Schema = 1

// ManifestName is the file that makes a folder a package.
const ManifestName = "manifest.json"

// Manifest says what a package is and what it was made from.
type Manifest struct {
	Schema       int    `json:"schema"`
	Tool         string `json:"tool"` // "pare 0.1.0"
	Name         string `json:"name"`
	Target       string `json:"target"`
	Container    string `json:"container"` // format name
	Model        string `json:"model"`     // what to open, relative to the package; "." is the package itself
	Architecture string `json:"architecture,omitempty"`
	Parameters   int64  `json:"parameters"`
	ModelBytes   int64  `json:"model_bytes"`
	Quantize     string `json:"quantize"`
	Method       string `json:"method"`
	// SameBytes says where the same bytes come out again: "any machine", or the instruction set that
	// activations were computed with.
	SameBytes string `json:"same_bytes"`

	Source   Origin   `json:"source"`
	Adapters []Origin `json:"adapters,omitempty"`
	Texts    []Origin `json:"texts,omitempty"` // calibration
	// Samples are what a graph was calibrated on, as the recipe spells them; files by their digest.
	Samples []Origin `json:"samples,omitempty"`
	// Recipe is the resolved recipe, with digests in place of paths.
	Recipe   *recipe.Recipe `json:"recipe"`
	Requires Requires       `json:"requires"`
	// Files are all files of the package but this one and the report, sorted by path.
	Files []File `json:"files"`

	dir string // where an open package lies
}

// Origin is an input by its content.
type Origin struct {
	Digest string  `json:"digest"` // "sha256:..."
	Format string  `json:"format,omitempty"`
	Weight float64 `json:"weight,omitempty"` // of an adapter
	Tokens int     `json:"tokens,omitempty"` // used of a text
}

// Requires is what a device must have.
type Requires struct {
	Arch string `json:"arch,omitempty"` // GOARCH
	ISA  string `json:"isa,omitempty"`
	// MemoryBytes is what the weights alone take; context comes on top.
	MemoryBytes int64    `json:"memory_bytes"`
	Runtimes    []string `json:"runtimes"`
}

// File is one file of a package. Path is relative, with forward slashes.
type File struct {
	Path   string `json:"path"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Reasons.
var (
	ErrManifest = errors.New("not a valid manifest")
	ErrDigest   = errors.New("content differs from the manifest")
)

// maxManifest bounds the manifest that is read; real ones have a few kilobytes.
const maxManifest = 16 << 20

// Inputs says how files become the inputs of a graph, by the recipe of an open package. Files that it names lie in the
// package.
func (m *Manifest) Inputs() recipe.Inputs {
	if m.Recipe == nil {
		return nil
	}
	out := recipe.Inputs{}
	place := func(p string) string {
		if strings.HasPrefix(p, assets) && m.dir != "" {
			return filepath.Join(m.dir, filepath.FromSlash(p))
		}
		return p
	}
	for name, p := range m.Recipe.Preprocess {
		p.Tokenizer, p.Value = place(p.Tokenizer), place(p.Value)
		out[name] = p
	}
	return out
}

// JSON is the form that is stored and whose digest names the package.
func (m *Manifest) JSON() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(m)
	return b.Bytes(), err
}

// Digest names the package: the SHA-256 of its manifest, which holds that of every file.
func (m *Manifest) Digest() (string, error) {
	b, err := m.JSON()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// parseManifest reads and checks manifest.json.
func parseManifest(b []byte) (*Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	bad := func(format string, a ...any) (*Manifest, error) {
		return nil, fmt.Errorf("%w: "+format, append([]any{ErrManifest}, a...)...)
	}
	if m.Schema != Schema {
		return bad("schema %d, this pare reads %d", m.Schema, Schema)
	}
	if m.Model != "." && !safePath(m.Model) {
		return bad("model path %q leaves the package", m.Model)
	}
	seen := map[string]bool{}
	for _, f := range m.Files {
		switch {
		case !safePath(f.Path) || f.Path == ManifestName:
			return bad("file path %q", f.Path)
		case seen[strings.ToLower(f.Path)]: // some file systems do not tell case apart
			return bad("file %q twice", f.Path)
		case f.Bytes < 0 || len(f.SHA256) != 64:
			return bad("file %q has no proper size and digest", f.Path)
		}
		seen[strings.ToLower(f.Path)] = true
	}
	if m.Model != "." && !seen[strings.ToLower(m.Model)] {
		return bad("the model file %q is not among the files", m.Model)
	}
	if m.Recipe != nil {
		for name, p := range m.Recipe.Preprocess {
			for _, file := range []string{p.Tokenizer, p.ValueFile()} {
				if file != "" && (!safePath(file) || !strings.HasPrefix(file, assets)) {
					return bad("input %q takes %q, which is no file of the package", name, file)
				}
			}
		}
	}
	return &m, nil
}

// assets is where files that a package's recipe names lie in it.
const assets = "assets/"

// safePath reports whether a path from a manifest or an archive stays below the folder it is
// joined to, on every system: relative, clean, forward slashes, no drive letter, no control bytes.
func safePath(p string) bool {
	if p == "" || len(p) > 1024 || p == "." || path.IsAbs(p) || path.Clean(p) != p || p == ".." || strings.HasPrefix(p, "../") {
		return false
	}
	for _, c := range p {
		if c < 0x20 || c == 0x7f || strings.ContainsRune(`\:*?"<>|`, c) {
			return false
		}
	}
	return filepath.IsLocal(filepath.FromSlash(p))
}

// ReadManifest reads the manifest of a package folder and checks it, not the files.
func ReadManifest(dir string) (*Manifest, error) {
	file := filepath.Join(dir, ManifestName)
	f, err := os.Open(file)
	if err != nil {
		return nil, &fault.Error{File: dir, Op: "package", Err: err}
	}
	defer f.Close()
	return readManifest(f, file)
}

// readManifest reads and checks the manifest that r holds; file is what errors name.
func readManifest(r io.Reader, file string) (*Manifest, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err == nil && len(b) > maxManifest {
		err = fmt.Errorf("%w: larger than %d bytes", ErrManifest, maxManifest)
	}
	if err != nil {
		return nil, &fault.Error{File: file, Op: "package", Err: err}
	}
	m, err := parseManifest(b)
	if err != nil {
		return nil, &fault.Error{File: file, Op: "package", Err: err}
	}
	return m, nil
}

// isReport says that a file belongs to the report, which the manifest leaves out.
func isReport(name string) bool {
	return slices.Contains([]string{"report.json", "report.md", "report.html", "junit.xml"}, name)
}
