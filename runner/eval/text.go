package eval

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "StringConcat", Inputs: 2, Plan: planStringConcat})
	register(Op{Name: "StringSplit", Plan: planStringSplit})
	register(Op{Name: "StringNormalizer", Plan: planStringNormalizer})
	register(Op{Name: "RegexFullMatch", Plan: planRegexFullMatch})
}

// needStrings is the value of input 0, which is text.
func needStrings(c *Call) ([]string, error) {
	t, err := c.Need(0)
	if err != nil {
		return nil, err
	}
	if t.Type != graph.String {
		return nil, c.Fault("elements of type %s", t.Type)
	}
	return t.Strings, nil
}

func planStringConcat(c *Call) (Step, error) {
	if c.Type(0) != graph.String || c.Type(1) != graph.String {
		return Step{}, c.Fault("elements of types %s and %s", c.Type(0), c.Type(1))
	}
	shape, err := broadcast(c.Shape(0), c.Shape(1))
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	walk, err := newWalk(shape, stretched(c.Shape(0), shape), stretched(c.Shape(1), shape))
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	return Step{Out: []Spec{Out(graph.String, shape...)}, Run: func(_ *Worker, in, out []*graph.Tensor) error {
		y := out[0].Strings
		if len(y) == 0 {
			return nil
		}
		at, k := walk.at(0), 0
		for range walk.rows() {
			for i := range walk.n {
				y[k] = in[0].Strings[at.off[0]+i*walk.inner[0]] + in[1].Strings[at.off[1]+i*walk.inner[1]]
				k++
			}
			at.next()
		}
		return nil
	}}, nil
}

// planStringSplit cuts strings at a delimiter, or at white space; as many cuts as maxsplit says, then the rest.
func planStringSplit(c *Call) (Step, error) {
	in, err := needStrings(c)
	if err != nil {
		return Step{}, err
	}
	delimiter, most := c.Node.Str("delimiter", ""), c.Node.Int("maxsplit", -1)
	parts, width := make([][]string, len(in)), 0
	for i, s := range in {
		parts[i] = split(s, delimiter, most)
		width = max(width, len(parts[i]))
	}
	shape := append(slices.Clone(c.Shape(0)), width)
	if err := graph.CheckShape(append([]int{16}, shape...)); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	if err := c.Fits(16 * len(in) * width); err != nil {
		return Step{}, err
	}
	return Step{Out: []Spec{Out(graph.String, shape...), Out(graph.Int64, c.Shape(0)...)}, Run: func(_ *Worker, _, out []*graph.Tensor) error {
		for i, list := range parts {
			if out[0] != nil {
				row := out[0].Strings[i*width : (i+1)*width]
				clear(row)
				copy(row, list)
			}
			if len(out) > 1 && out[1] != nil {
				elems[int64](out[1])[i] = int64(len(list))
			}
		}
		return nil
	}}, nil
}

// split cuts at most so many times; less than 0 is no bound. White space at the beginning and the end is no part.
func split(s, delimiter string, most int) []string {
	if delimiter != "" {
		if most < 0 {
			return strings.Split(s, delimiter)
		}
		return strings.SplitN(s, delimiter, most+1)
	}
	var list []string
	for s = strings.TrimLeftFunc(s, unicode.IsSpace); s != ""; {
		end := strings.IndexFunc(s, unicode.IsSpace)
		if end < 0 || most >= 0 && len(list) == most {
			return append(list, s)
		}
		list, s = append(list, s[:end]), strings.TrimLeftFunc(s[end:], unicode.IsSpace)
	}
	return list
}

// planStringNormalizer leaves out stop words and changes case. When nothing is left there is one empty string.
func planStringNormalizer(c *Call) (Step, error) {
	in, err := needStrings(c)
	if err != nil {
		return Step{}, err
	}
	shape := c.Shape(0)
	if len(shape) != 1 && (len(shape) != 2 || shape[0] != 1) {
		return Step{}, c.Fault("shape %v", shape)
	}
	change := map[string]func(string) string{
		"NONE": func(s string) string { return s }, "LOWER": strings.ToLower, "UPPER": strings.ToUpper,
	}[c.Node.Str("case_change_action", "NONE")]
	if change == nil {
		return Step{}, c.Fault("case_change_action %q", c.Node.Str("case_change_action", ""))
	}
	key := strings.ToLower // of a word among stop words
	if c.Node.Int("is_case_sensitive", 0) != 0 {
		key = func(s string) string { return s }
	}
	stop := map[string]bool{}
	for _, s := range c.Node.Attrs["stopwords"].Strings {
		stop[key(s)] = true
	}
	var list []string
	for _, s := range in {
		if !stop[key(s)] {
			list = append(list, change(s))
		}
	}
	if len(list) == 0 {
		list = []string{""}
	}
	out := slices.Clone(shape)
	out[len(out)-1] = len(list)
	return Step{Out: []Spec{Out(graph.String, out...)}, Run: func(_ *Worker, _, out []*graph.Tensor) error {
		copy(out[0].Strings, list)
		return nil
	}}, nil
}

// planRegexFullMatch tells which strings a pattern matches as a whole; Go's patterns are RE2's, which ONNX names.
func planRegexFullMatch(c *Call) (Step, error) {
	if c.Type(0) != graph.String {
		return Step{}, c.Fault("elements of type %s", c.Type(0))
	}
	pattern, err := Once(c, "pattern", func() (*regexp.Regexp, error) {
		text := c.Node.Str("pattern", "")
		if _, err := regexp.Compile(text); err != nil { // alone, so that it cannot close the group around it
			return nil, err
		}
		return regexp.Compile(fmt.Sprintf(`\A(?:%s)\z`, text))
	})
	if err != nil {
		return Step{}, c.Fault("pattern: %w", err)
	}
	return Step{Out: []Spec{Out(graph.Bool, c.Shape(0)...)}, Run: func(_ *Worker, in, out []*graph.Tensor) error {
		for i, s := range in[0].Strings {
			out[0].Data[i] = 0
			if pattern.MatchString(s) {
				out[0].Data[i] = 1
			}
		}
		return nil
	}}, nil
}
