package formats

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/arch"
)

// problemf adds a problem to the model.
func problemf(m *ir.Model, tensor, format string, args ...any) {
	m.Problems = append(m.Problems, ir.Problem{Tensor: tensor, Reason: fmt.Sprintf(format, args...)})
}

// stop takes the Decoder or Encoder away, for a reason that whoever wants to run the model is told.
func stop(m *ir.Model, err error) {
	m.Decoder, m.Encoder, err = nil, nil, bare(err)
	if m.NoDecoder != nil {
		return // the first reason is the cause of others
	}
	m.NoDecoder = err
	if errors.Is(err, arch.ErrUnknown) { // the same, in the words of every reader
		m.NoDecoder = nil
		if m.Arch == "" {
			m.NoDecoder = fmt.Errorf("%w: %w", ir.ErrNoArchitecture, err)
		}
	}
	problemf(m, "", "the model cannot be run, only its weights can be worked on: %v", err)
}

// mute notes why there is no tokenizer.
func mute(m *ir.Model, err error) {
	m.Tokenizer, m.NoTokenizer = nil, fmt.Errorf("the tokenizer cannot be used: %w", bare(err))
	problemf(m, "", "%v", m.NoTokenizer)
}

// together is several reasons on one line.
type together []error

func (t together) Error() string {
	lines := make([]string, len(t))
	for i, e := range t {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "; ")
}

func (t together) Unwrap() []error { return t }

// bare puts joined errors on one line, without the file that whoever shows them names already.
func bare(err error) error {
	if fe, ok := err.(*fault.Error); ok { //nolint:errorlint // the outermost one names the file
		c := *fe
		c.File = ""
		return &c
	}
	many, ok := err.(interface{ Unwrap() []error }) //nolint:errorlint // a join, not what it joins
	if !ok || !strings.Contains(err.Error(), "\n") && len(many.Unwrap()) != 1 {
		return err
	}
	var all together
	for _, e := range many.Unwrap() {
		all = append(all, bare(e))
	}
	return all
}

// settle drops the Decoder or Encoder when the tensors do not fit it, saying so.
func settle(m *ir.Model) {
	if !m.Known() {
		return
	}
	if err := m.Check(); err != nil {
		stop(m, fmt.Errorf("configuration and weights contradict each other: %w", bare(err)))
	}
}

// roles gives tensors their roles, and the names that the other container has for them. Those that
// a configuration does not use stay without, and are told of together.
type roles struct {
	m     *ir.Model
	role  func(string) (ir.Role, int, bool)
	other func(ir.Role, int) string

	beyond []int // blocks after the last that the configuration has, one entry for each tensor
	unused map[string][]string
}

// give names one tensor.
func (n *roles) give(t *ir.Tensor) {
	r, block, ok := n.role(t.Name)
	if !ok {
		return
	}
	if e := n.m.Encoder; e != nil && block >= e.Layers {
		n.beyond = append(n.beyond, block)
		return
	}
	if d := n.m.Decoder; d != nil {
		why := ""
		switch {
		case block >= d.Layers:
			n.beyond = append(n.beyond, block)
			return
		case r == ir.RoleHead && d.TiedHead:
			why = "the configuration ties the head to the embedding: the tensor is not used"
		case strings.HasSuffix(string(r), "_bias") && !slices.Contains(d.Biases, r):
			why = "the configuration has no such bias: the tensor is not used"
		}
		if why != "" {
			if n.unused == nil {
				n.unused = map[string][]string{}
			}
			n.unused[why] = append(n.unused[why], t.Name)
			return
		}
	}
	t.Role, t.Block = r, block
	if alias := n.other(r, block); alias != "" {
		t.Aliases = []string{alias}
	}
}

// report tells of the tensors that got no role.
func (n *roles) report() {
	if len(n.beyond) > 0 {
		first, last := slices.Min(n.beyond), slices.Max(n.beyond)
		where := fmt.Sprintf("block %d is", first)
		if last > first {
			where = fmt.Sprintf("blocks %d to %d are", first, last)
		}
		problemf(n.m, "", "%s not used (%d tensors): the configuration has %d blocks, the file %d", where, len(n.beyond), n.m.Layers(), last+1)
	}
	why := make([]string, 0, len(n.unused))
	for w := range n.unused {
		why = append(why, w)
	}
	slices.Sort(why)
	for _, w := range why {
		names := n.unused[w]
		more := ""
		if len(names) > 1 {
			more = fmt.Sprintf(" (and %d more like it)", len(names)-1)
		}
		problemf(n.m, names[0], "%s%s", w, more)
	}
}

// intact refuses side files in JSON that are damaged: what is cut short or overwritten is no model of
// an unknown kind.
func intact(path string, b []byte) error {
	text := strings.TrimSpace(string(b[:min(len(b), 512)]))
	begin := "{"
	if filepath.Base(path) == modulesName { // the one list among them
		begin = "["
	}
	if filepath.Ext(path) != ".json" || json.Valid(b) && strings.HasPrefix(text, begin) {
		return nil
	}
	var v any
	err := json.Unmarshal(b, &v)
	line, why := 1, "it holds no JSON object"
	if begin == "[" {
		why = "it holds no JSON list"
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		at := min(int(syntax.Offset), len(b))
		line += strings.Count(string(b[:at]), "\n")
		why = strings.TrimPrefix(syntax.Error(), "json: ")
		if strings.HasPrefix(syntax.Error(), "unexpected end") {
			why = "the text ends in the middle"
		}
	}
	if text == "" {
		why = "it is empty"
	}
	return &fault.Error{File: fmt.Sprintf("%s:%d", path, line), Err: fmt.Errorf("%w: %s", ErrDamaged, why), Hint: "copy the file again from where the model came from"}
}
