package ir

import (
	"errors"
	"fmt"
	"slices"

	"github.com/pare-dev/pare/internal/fault"
)

// Reasons why tensors and architecture do not go together.
var (
	ErrMissing = errors.New("the architecture needs a tensor that is missing")
	ErrShape   = errors.New("the shape does not fit")
)

// network is what a Decoder and an Encoder say of their tensors.
type network interface {
	layers() int
	outerRoles() []Role // of tensors outside the blocks
	blockRoles() []Role // of tensors that every block has
	Shape(Role) []int
}

// check verifies presence and shapes. It reports everything wrong at once, a line for each kind: a
// configuration that contradicts the weights does so in every block.
func check(d network, m *Model) error {
	type key struct {
		r Role
		b int
	}
	have := map[key]*Tensor{}
	wrong := &fault.Error{File: m.Path}
	others := 0
	for _, t := range m.tensors {
		if t.Role == RoleUnknown {
			continue
		}
		have[key{t.Role, t.Block}] = t
		want := d.Shape(t.Role)
		switch {
		case want != nil && slices.Equal(want, t.Shape):
		case wrong.Err == nil:
			wrong.Tensor, wrong.Err = t.Name, fmt.Errorf("%w: %v, the configuration asks for %v", ErrShape, t.Shape, want)
		default:
			others++
		}
	}
	var errs []error
	if others > 0 {
		wrong.Err = fmt.Errorf("%w; and %d more like it", wrong.Err, others)
	}
	if wrong.Err != nil {
		errs = append(errs, wrong)
	}
	var first string
	missing, empty := 0, 0 // tensors, and blocks of which nothing is there
	need := func(r Role, b int) bool {
		if have[key{r, b}] != nil {
			return true
		}
		if missing++; missing == 1 {
			first = string(r)
			if b >= 0 {
				first += fmt.Sprintf(" of block %d", b)
			}
		}
		return false
	}
	for _, r := range d.outerRoles() {
		need(r, -1)
	}
	roles := d.blockRoles()
	for b := range d.layers() {
		some := false
		for _, r := range roles {
			some = need(r, b) || some
		}
		if !some {
			empty++
		}
	}
	if missing > 0 {
		text := first
		if missing > 1 {
			text += fmt.Sprintf(" and %d more", missing-1)
		}
		if empty > 0 {
			text += fmt.Sprintf("; the configuration has %d blocks, the file %d of them", d.layers(), d.layers()-empty)
		}
		errs = append(errs, &fault.Error{File: m.Path, Err: fmt.Errorf("%w: %s", ErrMissing, text)})
	}
	return errors.Join(errs...)
}
