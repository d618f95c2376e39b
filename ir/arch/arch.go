// Package arch knows architectures as data. Each TOML file of its data folder describes one:
// what its tensors and hyper-parameters are called in every container, which biases, norms and
// windows it has, and which configuration values change its mathematics. Code here reads a
// description into an ir.Decoder and writes it back; it has no case for a model by name, so a new
// variant of a known family is one new file.
package arch

import (
	"embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/BurntSushi/toml"

	"github.com/pare-dev/pare/ir"
)

// Reasons why a configuration gives no Decoder. The tensors can still be worked on one by one.
var (
	ErrUnknown     = errors.New("architecture is not known")
	ErrUnsupported = errors.New("not computed here")
	ErrMissing     = errors.New("key is missing")
	ErrBadValue    = errors.New("bad value")
)

// Arch is the description of one architecture.
type Arch struct {
	Name   string             `toml:"name"`
	Like   string             `toml:"like"` // sibling whose description this one starts from
	Kind   string             `toml:"kind"` // "": a language model; "encoder"
	QKNorm bool               `toml:"qk_norm"`
	Biases map[ir.Role]string `toml:"biases"` // "", "always", or the key of config.json that decides

	HF   HF   `toml:"hf"`
	GGUF GGUF `toml:"gguf"`
}

// HF says how a Hugging Face folder spells the architecture.
type HF struct {
	ModelType string `toml:"model_type"`
	Class     string `toml:"class"`
	Window    string `toml:"window"` // none, always, switched
	// HeadsDivide says that transformers takes only hidden sizes that are a multiple of the number of heads.
	HeadsDivide bool               `toml:"heads_divide"`
	Keys        map[string]string  `toml:"keys"`
	Defaults    map[string]float64 `toml:"defaults"`
	Allowed     map[string][]any   `toml:"allowed"`
	Ignored     []string           `toml:"ignored"`
	// Encoders: what else tensor names begin with, how old files spell them, what activations are called,
	// and whether positions begin after the row of the padding token.
	Prefixes    []string           `toml:"prefixes"`
	Renames     map[string]string  `toml:"renames"`
	Activations map[string]string  `toml:"activations"`
	Padded      bool               `toml:"padded"`
	Names       map[ir.Role]string `toml:"names"`
}

// GGUF says how GGUF files spell the architecture.
type GGUF struct {
	Arch        string             `toml:"arch"`        // general.architecture
	Interleaved bool               `toml:"interleaved"` // q and k rows as RoPE neighbours
	RopeTensor  bool               `toml:"rope_tensor"` // llama3 scaling is a tensor
	Keys        map[string]string  `toml:"keys"`        // after the prefix "<arch>."
	Names       map[ir.Role]string `toml:"names"`
}

//go:embed data/*.toml
var data embed.FS

// load reads every description once. A mistake in an embedded file is a bug, hence the panics.
var load = sync.OnceValue(func() []*Arch {
	entries, err := data.ReadDir("data")
	if err != nil {
		panic(err)
	}
	all := make([]*Arch, 0, len(entries))
	for _, e := range entries { // sorted by name
		a := &Arch{}
		decode(a, strings.TrimSuffix(e.Name(), ".toml"), 0)
		all = append(all, a)
	}
	return all
})

// decode lays the description over those it starts from: later keys replace, maps merge.
func decode(a *Arch, name string, depth int) {
	text, err := data.ReadFile("data/" + name + ".toml")
	if err != nil || depth > 8 {
		panic(fmt.Sprintf("arch: %s at depth %d: %v", name, depth, err))
	}
	var head struct {
		Like string `toml:"like"`
	}
	if _, err := toml.Decode(string(text), &head); err != nil {
		panic("arch: " + name + ": " + err.Error())
	}
	if head.Like != "" {
		decode(a, head.Like, depth+1)
	}
	meta, err := toml.Decode(string(text), a)
	if err != nil {
		panic("arch: " + name + ": " + err.Error())
	}
	if extra := meta.Undecoded(); len(extra) > 0 {
		panic(fmt.Sprintf("arch: %s: unknown keys %v", name, extra))
	}
	if a.Name != name {
		panic(fmt.Sprintf("arch: %s.toml calls itself %q", name, a.Name))
	}
}

// Names lists the names of all architectures, for messages.
func Names() []string {
	var names []string
	for _, a := range load() {
		names = append(names, a.Name)
	}
	return names
}

// ByName returns the architecture with pare's name for it, or nil.
func ByName(name string) *Arch {
	for _, a := range load() {
		if a.Name == name {
			return a
		}
	}
	return nil
}

// ByGGUF returns the architecture that general.architecture names, or nil. When several share the
// name, it is the one that is called so itself.
func ByGGUF(name string) *Arch {
	var found *Arch
	for _, a := range load() {
		if a.GGUF.Arch == name && (found == nil || a.Name == name) {
			found = a
		}
	}
	return found
}

// byHF finds the architecture of a config.json by model_type, then by class.
func byHF(modelType string, classes []string) *Arch {
	for _, a := range load() {
		if a.HF.ModelType == modelType {
			return a
		}
	}
	if modelType != "" {
		return nil // a class may be shared by a model type that computes otherwise
	}
	for _, a := range load() {
		if slices.Contains(classes, a.HF.Class) {
			return a
		}
	}
	return nil
}

// HFName is the name of a role in a Hugging Face folder, "" when the architecture has no such role.
func (a *Arch) HFName(r ir.Role, block int) string { return fill(a.HF.Names[r], block) }

// GGUFName is the name of a role in a GGUF file, "" when the architecture has no such role.
func (a *Arch) GGUFName(r ir.Role, block int) string { return fill(a.GGUF.Names[r], block) }

// HFRole says what the tensor of that name in a Hugging Face folder is; block is -1 outside the blocks.
func (a *Arch) HFRole(name string) (r ir.Role, block int, ok bool) {
	for _, old := range sortedKeys(a.HF.Renames) {
		if before, cut := strings.CutSuffix(name, old); cut {
			name = before + a.HF.Renames[old]
		}
	}
	for _, prefix := range a.HF.Prefixes {
		if rest, cut := strings.CutPrefix(name, prefix); cut {
			name = rest
			break
		}
	}
	return find(a.HF.Names, name)
}

// GGUFRole says what the tensor of that name in a GGUF file is.
func (a *Arch) GGUFRole(name string) (r ir.Role, block int, ok bool) { return find(a.GGUF.Names, name) }

const hole = "{block}"

func fill(pattern string, block int) string {
	return strings.ReplaceAll(pattern, hole, strconv.Itoa(block))
}

func find(names map[ir.Role]string, name string) (ir.Role, int, bool) {
	for role, pattern := range names {
		if pattern == "" {
			continue // a sibling's role that this architecture lacks
		}
		before, after, inBlock := strings.Cut(pattern, hole)
		if !inBlock {
			if name == pattern {
				return role, -1, true
			}
			continue
		}
		if len(name) <= len(before)+len(after) || !strings.HasPrefix(name, before) || !strings.HasSuffix(name, after) {
			continue
		}
		digits := name[len(before) : len(name)-len(after)]
		block, err := strconv.Atoi(digits)
		if err == nil && strconv.Itoa(block) == digits && block >= 0 { // one spelling only: no "+1", no "01"
			return role, block, true
		}
	}
	return ir.RoleUnknown, -1, false
}
