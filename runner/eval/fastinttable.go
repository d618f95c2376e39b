package eval

import (
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	rules["DequantizeLinear"] = (*integers).dequantize
	rules["QuantizeLinear"] = (*integers).quantize
	for _, op := range []string{
		"Abs", "Ceil", "Celu", "Clip", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal",
		"Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
		"Div", "Max", "Min", "Pow", "Sub",
	} {
		rules[op] = (*integers).function
	}
	for _, op := range []string{"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Transpose", "Slice", "Expand", "Tile", "DepthToSpace", "SpaceToDepth"} {
		rules[op] = (*integers).move
	}
	rules["MaxPool"] = (*integers).largest
	rules["Resize"] = (*integers).nearest
	rules["Upsample"] = (*integers).nearest
	rules["Concat"] = (*integers).concat
}

// dequantize notes that floats are codes.
func (u *integers) dequantize(_ int, s *step) bool {
	if len(s.Out) != 1 || s.Out[0].Type != graph.Float32 || s.in[1] < 0 {
		return false
	}
	a, ok := u.affine(u.p.specs[s.in[0]].Type, s.in[1], s.input(2))
	if !ok {
		return false
	}
	r := &meaning{codeSlot: codeSlot{u.unsigned(s.in[0]), a}, table: new([256]float32), plain: true}
	for i := range r.table {
		r.table[i] = float32(int32(i)-a.Zero) * a.Scale
	}
	u.reals[s.out[0]] = r
	return true
}

// quantize makes codes: of other codes by a table, of floats by division.
func (u *integers) quantize(_ int, s *step) bool {
	a, ok := u.quantizer(s)
	if !ok {
		return false
	}
	if r := u.reals[s.in[0]]; r != nil {
		u.recode(s.node, r, a, s.out[0])
		return true
	}
	to, done := u.makes(s.out[0])
	u.add(s.node, s.in[:1:1], []int{to}, sameOrder{}, Step{Run: func(w *Worker, in, out []*graph.Tensor) error {
		x, y := elems[float32](in[0]), out[0].Data
		w.Range(len(x), 2, func(lo, hi int) { w.Kernels.Codes(y[lo:hi], x[lo:hi], a.Scale, a.Zero, 0) })
		return nil
	}})
	done()
	return true
}

// recode makes codes of a function of codes.
func (u *integers) recode(n *node, r *meaning, a kernels.Affine, slot int) {
	to, done := u.makes(slot)
	if r.plain && r.Affine == a {
		u.add(n, []int{r.slot}, []int{to}, sameOrder{}, Step{Alias: true})
		done()
		return
	}
	table := new([256]uint8)
	for i, v := range r.table {
		table[i] = uint8(codeOf(v/a.Scale, float32(a.Zero), 0, 255))
	}
	u.add(n, []int{r.slot}, []int{to}, sameOrder{}, Step{InPlace: []int{0}, Run: func(w *Worker, in, out []*graph.Tensor) error {
		x, y := in[0].Data, out[0].Data
		w.Range(len(x), 1, func(lo, hi int) { w.Kernels.Recode(y[lo:hi], x[lo:hi], table) })
		return nil
	}})
	done()
}

// function notes that floats which an operator makes number by number of codes are a function of these.
func (u *integers) function(_ int, s *step) bool {
	var root *meaning
	if len(s.Out) != 1 || s.Out[0].Type != graph.Float32 || s.Run == nil {
		return false
	}
	in, ts := make([]Spec, len(s.in)), make([]*graph.Tensor, len(s.in))
	for k, slot := range s.in {
		if slot < 0 {
			continue
		}
		spec := u.p.specs[slot]
		if r := u.reals[slot]; r != nil {
			if root != nil && root.slot != r.slot || !slices.Equal(spec.Shape, s.Out[0].Shape) {
				return false
			}
			root = r
			in[k], ts[k] = Out(graph.Float32, 256), graph.New(graph.Float32, 256)
			copy(graph.Of[float32](ts[k]), r.table[:])
			continue
		}
		if spec.Known == nil || graph.Elems(spec.Shape) != 1 || !spec.Const {
			return false
		}
		in[k] = knownSpec(spec.Known)
		if in[k].Const = true; len(spec.Shape) > 1 { // the table has one dimension
			in[k] = knownSpec(&graph.Tensor{Type: spec.Type, Shape: nil, Data: spec.Known.Data})
		}
		ts[k] = in[k].Known
	}
	if root == nil {
		return false
	}
	st, err := s.node.call(&step{node: s.node}, in, false)
	if err != nil || len(st.Out) != 1 || st.Run == nil || !slices.Equal(st.Out[0].Shape, []int{256}) {
		return false
	}
	out := graph.New(graph.Float32, 256)
	w := *s.node.prog.worker
	w.Scratch = graph.Aligned(st.Scratch)
	if err := s.node.run(st.Run, &w, ts, []*graph.Tensor{out}); err != nil {
		return false
	}
	r := &meaning{codeSlot: root.codeSlot, table: new([256]float32)}
	copy(r.table[:], graph.Of[float32](out))
	u.reals[s.out[0]] = r
	return true
}

// move moves codes as the operator moves floats.
func (u *integers) move(_ int, s *step) bool {
	r := u.reals[s.in[0]]
	if r == nil || len(s.out) != 1 || slices.ContainsFunc(s.in[1:], func(k int) bool { return u.reals[k] != nil }) {
		return false
	}
	return u.onCodes(s, r, []int{r.slot})
}

// onCodes lets an operator work on slots of codes, in place of the floats that they stand for.
func (u *integers) onCodes(s *step, r *meaning, slots []int) bool {
	in := make([]Spec, len(s.in))
	for k, slot := range s.in {
		if slot >= 0 {
			in[k] = u.p.specs[slot]
		}
	}
	inputs := slices.Clone(s.in)
	for k, slot := range slots {
		in[k], inputs[k] = u.p.specs[slot], slot
	}
	t := &step{node: s.node, in: inputs}
	st, err := s.node.call(t, in, false)
	if err != nil || len(st.Out) < len(s.out) || st.Out[0].Type != graph.Uint8 || st.Values != nil || st.Out[0].Known != nil || !slices.Equal(st.Out[0].Shape, s.Out[0].Shape) {
		return false
	}
	to := u.slot(st.Out[0].Shape)
	st.Out = st.Out[:1]
	t.Step, t.out = st, []int{to}
	u.steps = append(u.steps, t)
	u.reals[s.out[0]] = &meaning{codeSlot: codeSlot{to, r.Affine}, table: r.table, plain: r.plain}
	return true
}

// largest takes the largest codes, where they rise with what they stand for.
func (u *integers) largest(_ int, s *step) bool {
	r := u.reals[s.in[0]]
	if r == nil || !r.plain || len(s.out) != 1 {
		return false
	}
	return u.onCodes(s, r, []int{r.slot})
}

// nearest repeats or drops codes.
func (u *integers) nearest(i int, s *step) bool {
	return s.node.Str("mode", "nearest") == "nearest" && s.node.Str("coordinate_transformation_mode", "") != "tf_crop_and_resize" && u.move(i, s)
}

// concat puts codes together that stand for numbers in the same way, or after it made them so.
func (u *integers) concat(_ int, s *step) bool {
	if len(s.in) == 0 || len(s.out) != 1 {
		return false
	}
	rs := make([]*meaning, len(s.in))
	same := true
	for k, slot := range s.in {
		if rs[k] = u.reals[slot]; rs[k] == nil {
			return false
		}
		same = same && rs[k].plain == rs[0].plain && rs[k].Affine == rs[0].Affine && (rs[k].plain || *rs[k].table == *rs[0].table)
	}
	slots := make([]int, len(rs))
	if same {
		for k, r := range rs {
			slots[k] = r.slot
		}
		return u.onCodes(s, rs[0], slots)
	}
	t := u.tail(s.out[0])
	if t.codes == nil || len(t.steps) != 1 {
		return false
	}
	for k, r := range rs {
		slots[k] = u.slot(u.p.specs[r.slot].Shape)
		u.recode(s.node, r, *t.codes, slots[k])
	}
	r := &meaning{codeSlot: codeSlot{0, *t.codes}, table: new([256]float32), plain: true}
	for i := range r.table {
		r.table[i] = float32(int32(i)-r.Zero) * r.Scale
	}
	return u.onCodes(s, r, slots)
}
