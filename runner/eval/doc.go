// Package eval executes graphs of operators (ir/graph) on this CPU.
//
//	p, err := eval.Compile(g, eval.Options{Threads: 2})
//	out, err := p.Run(ctx, eval.Of(image))
//
// Three things happen at three times.
//
// Compile numbers the values of a graph and looks up its operators; what is not supported is named, all of
// it, before anything runs.
//
// A plan is made when the types and shapes of the inputs are known, once per combination of them. It walks
// through the nodes and asks each operator for a Step: the types and shapes of the outputs and a function
// that fills them. A node whose inputs are all known, constants and what follows from constants and shapes,
// is computed then and there, so arithmetic on shapes costs nothing at run time. Weights are packed here,
// too. Then memory is laid out: every value has a lifetime, and values that do not live at the same time
// share bytes of one arena.
//
// A run walks through the steps. When all shapes were known it allocates nothing. An operator whose outputs
// depend on values (NonZero, Reshape to a computed shape, Loop) says so by asking for them (Call.Need), and
// is planned when the run comes to it; so are those that read what it makes.
//
// # Speed
//
// A plan is then rewritten: functions that exporters write in many operators, such as attention and GELU, become
// one step (recognize.go), and operators are joined (fast.go): convolutions and products with constant weights take what follows them into
// their kernels, images between them lie with their channels together, and convolutions of single pixels with
// the depthwise ones that read them are made a few rows at a time.
//
// Before that, what quantized graphs compute with codes leaves the floats that they write it in (fastint.go): products
// add up integers, in the integer kernels that such graphs are made for, and functions of single codes are tables. Results are
// those of ONNX Runtime's integer kernels. They may differ from the floats as declared, which a program with
// Options.Observe computes, by a code where sums of floats are rounded.
//
// # Operators
//
// One file per family registers them, in its init:
//
//	register(Op{Name: "Softplus", Plan: planSoftplus})
//
//	func planSoftplus(c *Call) (Step, error) {
//		return Step{
//			Out:     []Spec{Out(c.Type(0), c.Shape(0)...)},
//			InPlace: []int{0},
//			Run: func(w *Worker, in, out []*graph.Tensor) error { ... },
//		}, nil
//	}
//
// Plan may ask Call for types and shapes (always there), for attributes (Call.Node), for the version of the
// operator set (Call.Version), and for values. What it derives from a constant, such as packed weights, it
// keeps with Once. An operator that only knows float32 says so with Narrow: floats of 16 and 8 bits are then
// widened for it and its results rounded; Unpack does the same for elements of less than 8 bits.
package eval
