package ir

import (
	"path"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
)

// Match reports whether a tensor pattern selects the tensor. Patterns are shell globs in which *
// also crosses dots and slashes, tried on the name and on every alias, with and without a ".weight" or
// ".bias" ending: "*.attn_v.*", "model.layers.0.*", "blk.0.ffn_down", "output".
func (t *Tensor) Match(pattern string) bool {
	for _, n := range append([]string{t.Name}, t.Aliases...) {
		if Glob(pattern, n) || Glob(pattern, strings.TrimSuffix(strings.TrimSuffix(n, ".weight"), ".bias")) {
			return true
		}
	}
	return false
}

// MatchAny reports whether any of the patterns selects the tensor.
func (t *Tensor) MatchAny(patterns []string) bool {
	for _, p := range patterns {
		if t.Match(p) {
			return true
		}
	}
	return false
}

// Glob reports whether a shell glob is like a name. Names are no paths: * and ? stand for slashes, too.
func Glob(pattern, name string) bool {
	ok, err := path.Match(strings.ReplaceAll(pattern, "/", "\x00"), strings.ReplaceAll(name, "/", "\x00"))
	return err == nil && ok
}

// CheckPattern reports a malformed pattern as misuse.
func CheckPattern(pattern string) error {
	if _, err := path.Match(pattern, ""); err != nil {
		return &fault.Error{Op: "pattern " + pattern, Err: fault.As(fault.ErrMisuse, err), Hint: "write a glob such as \"*.mlp.*\""}
	}
	return nil
}
