// Package targets knows the devices that packages are made for: which container their runtimes
// load, which stored types those execute, what they need of the hardware, and what they gain. A
// target is a table of capabilities in a file of its own; nothing asks "is it ARM?". What a target
// cannot take it says at plan time, tensor by tensor, with the nearest thing that it can.
package targets

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// Target is the capability table of a device class.
type Target struct {
	Name string `json:"name"`
	Doc  string `json:"doc"` // one line for listings

	// Containers are the file formats its runtimes load language models from, default first; none for
	// processors that run networks only.
	Containers []Container `json:"containers"`
	// Graph is what it takes of networks of operators, nil for nothing.
	Graph *Graph `json:"graph,omitempty"`

	// Quantize is what a build makes when nobody says: a preset or scheme of package quantize.
	// Options are other choices that make sense here, each with its reason.
	Quantize string   `json:"quantize"`
	Options  []Option `json:"options"`
	// Calibrated is the method used when calibration text is given, for types it can work on;
	// without text it is "rtn".
	Calibrated string `json:"calibrated_method"`

	// Arch and ISA are what the device must be: a GOARCH ("" when the CPU does not matter) and the
	// instruction sets, as people name them.
	Arch string `json:"arch,omitempty"`
	ISA  string `json:"isa,omitempty"`
	// Level is the kernel level of pare's own runner that stands for the device, "" when there is
	// none: a machine that has it measures latency that counts.
	Level cpu.Level `json:"-"`
	// Zeros says whether the device gains anything from weights that are zero.
	Zeros string   `json:"zeros"`
	Notes []string `json:"notes,omitempty"`
	// NotExecuted is what is never executed by pare for this target, "" when pare's runner does what
	// the target's runtimes do, with the same weights on the same kind of processor.
	NotExecuted string `json:"not_executed,omitempty"`
}

// Option is a choice with its reason.
type Option struct {
	Quantize string `json:"quantize"`
	Why      string `json:"why"`
}

// Container is what a target takes inside one file format.
type Container struct {
	Format   string         `json:"format"` // registry name in package formats
	Types    []storage.Type `json:"types"`  // plain and block types, from most to least exact
	Schemes  []Scheme       `json:"schemes,omitempty"`
	Runtimes []Runtime      `json:"runtimes"` // where it opens unconverted
	// VectorF32 says that vectors (norms, biases) must be f32.
	VectorF32 bool `json:"vector_f32,omitempty"`
	// Known says that the file holds what the architecture names and nothing else: other tensors are
	// left out.
	Known bool `json:"known,omitempty"`
	// NameMax is the longest tensor name in bytes, 0: no limit.
	NameMax int `json:"name_max,omitempty"`
	// Shared lists roles that the runtime computes as one matrix, so that their schemes must agree.
	Shared [][]ir.Role `json:"shared,omitempty"`
}

// Runtime is a program that loads packages of a target.
type Runtime struct {
	Name  string `json:"name"`
	Since string `json:"since,omitempty"` // version that the container's rules were checked with
	Note  string `json:"note,omitempty"`
}

// Scheme is a uniform scheme that a container can hold, with the limits of the kernels that read it.
type Scheme struct {
	Name       string `json:"name"` // as package quantize spells it
	Bits       int    `json:"bits"`
	Groups     []int  `json:"groups"`     // allowed Scheme.Group values
	Asymmetric bool   `json:"asymmetric"` // zero points allowed
	// ColsMultiple and RowsMultiple are what the matrix must be a multiple of.
	ColsMultiple int `json:"cols_multiple"`
	RowsMultiple int `json:"rows_multiple"`
}

// Refusal is one tensor that a target cannot take as planned.
type Refusal struct {
	Tensor  string       `json:"tensor"`
	Reason  string       `json:"reason"`
	Nearest storage.Type `json:"nearest,omitempty"` // stored type that the target can take here
	Hint    string       `json:"hint,omitempty"`
}

var all = map[string]*Target{}

func register(t *Target) {
	if _, dup := all[t.Name]; dup {
		panic("targets: duplicate target " + t.Name)
	}
	all[t.Name] = t
}

// All lists the targets by name.
func All() []*Target {
	list := make([]*Target, 0, len(all))
	for _, t := range all {
		list = append(list, t)
	}
	sort.Slice(list, func(a, b int) bool { return list[a].Name < list[b].Name })
	return list
}

// Names lists the targets' names.
func Names() []string {
	names := make([]string, 0, len(all))
	for _, t := range All() {
		names = append(names, t.Name)
	}
	return names
}

// Lookup finds a target; the error is misuse and names the nearest one.
func Lookup(name string) (*Target, error) {
	if t, ok := all[name]; ok {
		return t, nil
	}
	hint := fmt.Sprintf("choose %s", strings.Join(Names(), ", "))
	if near := human.Nearest(name, Names()); near != "" {
		hint = fmt.Sprintf("did you mean %s?   (pare targets lists all %d)", near, len(all))
	}
	return nil, &fault.Error{Err: fault.As(fault.ErrMisuse, fmt.Errorf("unknown target %q", name)), Hint: hint}
}

// Container finds the table of a file format; empty means the default.
func (t *Target) Container(format string) (*Container, error) {
	var names []string
	for i := range t.Containers {
		if c := &t.Containers[i]; format == "" || c.Format == format {
			return c, nil
		}
		names = append(names, t.Containers[i].Format)
	}
	if len(names) == 0 {
		return nil, &fault.Error{
			Op: "target " + t.Name, Err: fault.As(fault.ErrMisuse, errors.New("it takes networks in ONNX files, no language models")),
			Hint: "pare plan NETWORK.onnx -t " + t.Name + " says whether it runs one",
		}
	}
	return nil, &fault.Error{Op: "target " + t.Name, Err: fault.As(fault.ErrMisuse, fmt.Errorf("no container %q", format)), Hint: "choose " + strings.Join(names, ", ")}
}

// Legal checks what a plan would store against what the container can hold and the runtimes can
// execute. It reads names, shapes and types only, and returns one line for every tensor that does
// not fit, in catalogue order.
func (c *Container) Legal(m *ir.Model, plan *ir.Plan) []Refusal {
	steps := make(map[string]*ir.Step, len(plan.Steps))
	for i := range plan.Steps {
		steps[plan.Steps[i].Tensor] = &plan.Steps[i]
	}
	var out []Refusal
	for _, t := range m.Tensors() {
		if c.Known && m.Known() && t.Role == ir.RoleUnknown {
			continue // left out, and said so
		}
		typ, scheme := t.Type, t.Scheme
		if s := steps[t.Name]; s != nil {
			typ, scheme = s.To, s.Scheme
		}
		if reason := c.refuses(t, typ, scheme); reason != "" {
			r := Refusal{Tensor: t.Name, Reason: reason, Nearest: c.nearest(t, typ)}
			switch {
			case scheme != nil && len(c.Schemes) == 0: // another type for one tensor would not help the others
				r.Hint = "give --quantize a type that it holds" + c.example()
			case r.Nearest != "":
				r.Hint = fmt.Sprintf("--keep %q", t.Name+"="+string(r.Nearest))
			}
			out = append(out, r)
		}
	}
	return append(out, c.shared(m, steps)...)
}

// example names a type that weights are quantized to.
func (c *Container) example() string {
	for _, t := range c.Types {
		if info, ok := storage.Lookup(t); ok && !info.Float {
			return ", such as " + string(t) + "; pare targets lists them"
		}
	}
	return "; pare targets lists them"
}

// refuses is the reason why the container cannot hold the tensor in this type, or "".
func (c *Container) refuses(t *ir.Tensor, typ storage.Type, scheme *storage.Scheme) string {
	if c.NameMax > 0 && len(shortest(t)) > c.NameMax {
		return fmt.Sprintf("the name has more than %d bytes", c.NameMax)
	}
	if scheme != nil {
		return c.refusesScheme(t, *scheme)
	}
	if !slices.Contains(c.Types, typ) {
		return fmt.Sprintf("%s cannot hold %s", c.Format, typ)
	}
	if c.VectorF32 && len(t.Shape) < 2 && typ != storage.F32 {
		return fmt.Sprintf("vectors must be f32 in %s, not %s", c.Format, typ)
	}
	if _, err := typ.RowBytes(t.Cols()); err != nil {
		return err.Error()
	}
	return ""
}

func (c *Container) refusesScheme(t *ir.Tensor, s storage.Scheme) string {
	if len(c.Schemes) == 0 {
		return fmt.Sprintf("%s holds block types, not %s", c.Format, s)
	}
	var reason string
	for _, k := range c.Schemes {
		if k.Bits != s.Bits {
			continue
		}
		switch {
		case !slices.Contains(k.Groups, s.Group):
			reason = fmt.Sprintf("the kernels read %s", k.describe())
		case !s.Symmetric && !k.Asymmetric:
			reason = fmt.Sprintf("the kernels read symmetric %d-bit codes only", s.Bits)
		case len(t.Shape) != 2:
			reason = fmt.Sprintf("%d dimensions; only matrices are quantized", len(t.Shape))
		case k.ColsMultiple > 0 && t.Cols()%k.ColsMultiple != 0:
			reason = fmt.Sprintf("%d columns are not a multiple of %d", t.Cols(), k.ColsMultiple)
		case s.Group > 0 && t.Cols()%s.Group != 0:
			reason = fmt.Sprintf("%d columns are not a multiple of group size %d", t.Cols(), s.Group)
		case k.RowsMultiple > 0 && t.Rows()%k.RowsMultiple != 0:
			reason = fmt.Sprintf("%d rows are not a multiple of %d", t.Rows(), k.RowsMultiple)
		default:
			return ""
		}
	}
	if reason == "" {
		reason = fmt.Sprintf("the kernels do not read %d-bit codes", s.Bits)
	}
	return reason
}

func (s Scheme) describe() string {
	var groups []string
	for _, g := range s.Groups {
		switch g {
		case storage.GroupChannel:
			groups = append(groups, "rows")
		case storage.GroupTensor:
			groups = append(groups, "the whole tensor")
		default:
			groups = append(groups, fmt.Sprint(g))
		}
	}
	return fmt.Sprintf("int%d in groups of %s", s.Bits, strings.Join(groups, ", "))
}

// nearest is the type closest in bits to the one wanted, from above if possible, that the container
// takes for this tensor.
func (c *Container) nearest(t *ir.Tensor, want storage.Type) (best storage.Type) {
	bits := 4.0 // planes
	if i, ok := storage.Lookup(want); ok && want != storage.Planes {
		bits = i.Bits()
	}
	var at float64
	for _, typ := range c.Types {
		if storage.MustLookup(typ).Encode == nil || c.refuses(t, typ, nil) != "" {
			continue
		}
		d := storage.MustLookup(typ).Bits() - bits
		if d < 0 {
			d = 100 - d // something smaller only when nothing larger fits
		}
		if best == "" || d < at {
			best, at = typ, d
		}
	}
	return best
}

// shared finds layers that the runtime fuses but the plan stores by different schemes.
func (c *Container) shared(m *ir.Model, steps map[string]*ir.Step) (out []Refusal) {
	if m.Decoder == nil {
		return nil
	}
	kind := func(t *ir.Tensor) string {
		typ, scheme := t.Type, t.Scheme
		if s := steps[t.Name]; s != nil {
			typ, scheme = s.To, s.Scheme
		}
		if scheme != nil {
			return scheme.String()
		}
		if i, ok := storage.Lookup(typ); ok && i.Float {
			return "float"
		}
		return string(typ)
	}
	for b := range m.Decoder.Layers {
		for _, roles := range c.Shared {
			var first *ir.Tensor
			for _, r := range roles {
				t := m.Role(r, b)
				switch {
				case t == nil:
				case first == nil:
					first = t
				case kind(t) != kind(first):
					out = append(out, Refusal{
						Tensor: t.Name, Reason: fmt.Sprintf("the runtime fuses it with %q, so both need one scheme: %s here, %s there", first.Name, kind(t), kind(first)),
						Hint: "use one pattern for both",
					})
				}
			}
		}
	}
	return out
}

// shortest is the length that counts for a container's own spelling: the shortest of all names.
func shortest(t *ir.Tensor) string {
	s := t.Name
	for _, a := range t.Aliases {
		if len(a) < len(s) {
			s = a
		}
	}
	return s
}
