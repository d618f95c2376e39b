package verify

import (
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// unit is what is put back at once, and what one flag stores better: a tensor, or several.
type unit []restored

func (u unit) block() int { return max(u[0].pkg.Block, -1) }

func (u unit) elems() (n int64) {
	for _, r := range u {
		n += r.pkg.Elems()
	}
	return n
}

// fused are matrices with one input that runtimes of uniform schemes compute as one, so that all must
// be stored alike.
var fused = [][]ir.Role{{ir.RoleAttnQ, ir.RoleAttnK, ir.RoleAttnV}, {ir.RoleMLPGate, ir.RoleMLPUp}}

// units puts tensors together that have to be stored alike.
func units(pairs []restored) []unit {
	type place struct{ block, set int }
	at := map[place]int{}
	var out []unit
	for _, r := range pairs {
		set := slices.IndexFunc(fused, func(roles []ir.Role) bool { return slices.Contains(roles, r.pkg.Role) })
		if r.pkg.Scheme == nil || set < 0 {
			out = append(out, unit{r})
			continue
		}
		p := place{r.pkg.Block, set}
		if i, ok := at[p]; ok {
			out[i] = append(out[i], r)
			continue
		}
		at[p] = len(out)
		out = append(out, unit{r})
	}
	return out
}

// typeName is how the unit is stored.
func (u unit) typeName() string {
	if s := u[0].pkg.Scheme; s != nil {
		return s.String()
	}
	return string(u[0].pkg.Type)
}

// pattern selects the unit's tensors: the name, or what their names have in common around a set of
// first letters, "model.layers.0.self_attn.[qkv]*_proj".
func (u unit) pattern() string {
	names := make([]string, len(u))
	for i, r := range u {
		names[i] = strings.TrimSuffix(r.pkg.Name, ".weight")
	}
	if len(names) == 1 {
		return names[0]
	}
	head, tail := names[0], names[0]
	for _, n := range names[1:] {
		for !strings.HasPrefix(n, head) {
			head = head[:len(head)-1]
		}
		for !strings.HasSuffix(n, tail) {
			tail = tail[1:]
		}
	}
	var letters []byte
	for _, n := range names {
		if len(n) < len(head)+len(tail)+1 {
			return head + "*" + tail // the parts overlap
		}
		if c := n[len(head)]; !slices.Contains(letters, c) {
			letters = append(letters, c)
		}
	}
	return head + "[" + string(letters) + "]*" + tail
}

// ladder orders the types that store more bits each; a row that does not divide into blocks of one
// takes the next.
var ladder = []storage.Type{"q2_k", "q3_k", "q4_k", "q4_0", "q5_k", "q5_0", "q6_k", "q8_0", "bf16"}

// better suggests the flag that stores a unit with noticeably more bits, and its price. Uniform
// schemes are kept in the source's float type. There is no flag for what lost nothing by its type, as
// pruned weights, nor where the pattern would select more than the unit.
func (u unit) better(pkg *ir.Model) (keep string, price int64) {
	t := u[0].pkg
	if u[0].original.Type == t.Type && t.Scheme == nil {
		return "", 0
	}
	pattern, selected := u.pattern(), 0
	for _, x := range pkg.Tensors() {
		if x.Match(pattern) {
			selected++
		}
	}
	if selected != len(u) {
		return "", 0
	}
	for _, typ := range ladder {
		info, ok := storage.Lookup(typ)
		if !ok || info.Bits() < bits(t)+0.75 || t.Scheme != nil && !info.Float {
			continue
		}
		if price, ok := u.price(typ); ok {
			return pattern + "=" + string(typ), price
		}
	}
	return "", 0
}

// price is what it costs to store the unit in another type; not ok when its rows do not divide.
func (u unit) price(typ storage.Type) (n int64, ok bool) {
	for _, r := range u {
		row, err := typ.RowBytes(r.pkg.Cols())
		if err != nil {
			return 0, false
		}
		now, err := r.pkg.Bytes()
		if err != nil {
			return 0, false
		}
		n += row*int64(r.pkg.Rows()) - now
	}
	return n, true
}
