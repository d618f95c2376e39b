package samples

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
)

// ParseShapes reads INPUT=1x3x224x224, or a shape alone where there is one input.
func ParseShapes(list []string, inputs []*graph.Value) (map[string][]int, error) {
	bad := func(hint, format string, args ...any) error {
		return &fault.Error{Op: "shape", Err: misuse(format, args...), Hint: hint}
	}
	shapes := map[string][]int{}
	for _, s := range list {
		at := strings.LastIndexByte(s, '=')
		name, text := s[:max(at, 0)], s[at+1:]
		if at < 0 {
			if len(inputs) != 1 {
				return nil, bad("write NAME="+s, "%q does not say which of %d inputs it is for", s, len(inputs))
			}
			name = inputs[0].Name
		}
		dims := []int{}
		for part := range strings.SplitSeq(text, "x") {
			n, err := strconv.Atoi(part)
			if err != nil || n < 0 {
				return nil, bad("", "%q is no shape; write %s=1x3x224x224", text, name)
			}
			dims = append(dims, n)
		}
		if err := graph.CheckShape(dims); err != nil {
			return nil, &fault.Error{Op: "shape", Err: fault.As(fault.ErrMisuse, fmt.Errorf("%w is too large", err))}
		}
		shapes[name] = dims
	}
	return shapes, nil
}

// ParseGiven reads NAME=VALUE. What has no name is for the only input; a file may have = in its name, when what is
// before it is no input.
func ParseGiven(values []string, inputs []*graph.Value) []Given {
	var list []Given
	for _, s := range values {
		g := Given{Values: []string{s}}
		if name, value, ok := strings.Cut(s, "="); ok {
			g = Given{Input: name, Values: []string{value}}
			for at := len(name); at >= 0; { // names may have = in them, too
				if slices.ContainsFunc(inputs, func(v *graph.Value) bool { return v.Name == s[:at] }) {
					g = Given{Input: s[:at], Values: []string{s[at+1:]}}
					break
				}
				next := strings.IndexByte(s[at+1:], '=')
				if next < 0 {
					break
				}
				at += 1 + next
			}
		}
		list = append(list, g)
	}
	return list
}
