package eval

import (
	"slices"
	"unsafe"

	"github.com/pare-dev/pare/ir/graph"
)

// Value is what flows along an edge while a program runs: a tensor, a sequence of them, or an optional one.
type Value struct {
	Kind   graph.Kind
	Tensor *graph.Tensor   // of a tensor; of an optional one, nil when it is empty
	Seq    []*graph.Tensor // of a sequence; of an optional sequence with Some
	Some   bool            // of an optional sequence: it is there
}

// Of is a tensor as a value.
func Of(t *graph.Tensor) Value { return Value{Tensor: t} }

// SequenceOf is a sequence as a value.
func SequenceOf(list ...*graph.Tensor) Value { return Value{Kind: graph.KindSequence, Seq: list} }

// Given reports whether there is something: the zero Value stands for an input that is left out.
func (v Value) Given() bool { return v.Kind != graph.KindTensor || v.Tensor != nil }

// Spec is what is known of a value before, or while, a program runs.
type Spec struct {
	Kind graph.Kind
	// Type is that of the elements; Undefined in the Spec of an input that is left out.
	Type  graph.DType
	Shape []int // of a tensor
	// Known is the value itself, when it does not depend on what the caller gives at each run.
	Known *graph.Tensor
	// Const says that Known is the same in every plan of the program, so that what is derived from it is
	// worth keeping.
	Const bool
	fixed bool // Known is the same in every run of the plan
	// Later says that type and shape will be known when the run comes to it.
	Later bool
}

// Out is the spec of an output.
func Out(typ graph.DType, shape ...int) Spec { return Spec{Type: typ, Shape: shape} }

// Later is the spec of an output about which only a run will tell.
func Later(kind graph.Kind) Spec { return Spec{Kind: kind, Later: true} }

// knownSpec is the spec of a value that is there.
func knownSpec(t *graph.Tensor) Spec { return Spec{Type: t.Type, Shape: t.Shape, Known: t} }

// bytes is the size of the value in an arena.
func (s Spec) bytes() int { return s.Type.Bytes(graph.Elems(s.Shape)) }

// same reports whether a step that was planned for one spec serves another, known values aside.
func (s Spec) same(o Spec) bool {
	return s.Kind == o.Kind && s.Type == o.Type && s.Later == o.Later && slices.Equal(s.Shape, o.Shape)
}

// actual is the spec of a value while a program runs.
func (v Value) actual() Spec {
	switch {
	case v.Kind == graph.KindTensor && v.Tensor != nil:
		return knownSpec(v.Tensor)
	case v.Kind == graph.KindTensor:
		return Spec{}
	}
	s := Spec{Kind: v.Kind}
	switch {
	case v.Tensor != nil:
		s.Type, s.Shape = v.Tensor.Type, v.Tensor.Shape
	case len(v.Seq) > 0:
		s.Type = v.Seq[0].Type
	}
	return s
}

// hold is a header of its own for a tensor that will be kept in a sequence: the one that a step is given
// belongs to the plan and describes another tensor in the next run.
func hold(t *graph.Tensor) *graph.Tensor {
	h := *t
	return &h
}

// clone copies a tensor.
func clone(t *graph.Tensor) *graph.Tensor {
	c := graph.New(t.Type, t.Shape...)
	copy(c.Data, t.Data)
	copy(c.Strings, t.Strings)
	return c
}

// within reports whether the elements of t lie in mem.
func within(t *graph.Tensor, mem []byte) bool {
	if len(t.Data) == 0 || len(mem) == 0 {
		return false
	}
	a, lo := uintptr(unsafe.Pointer(unsafe.SliceData(t.Data))), uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
	return a >= lo && a < lo+uintptr(len(mem))
}

// elems views the elements of a tensor as a slice, those of a string tensor included.
func elems[T any](t *graph.Tensor) []T {
	if t.Type == graph.String {
		return any(t.Strings).([]T)
	}
	var zero T
	n := len(t.Data) / int(unsafe.Sizeof(zero))
	if n == 0 {
		return nil
	}
	p := unsafe.Pointer(unsafe.SliceData(t.Data))
	if uintptr(p)%unsafe.Alignof(zero) != 0 { // as some files have them
		b := graph.Aligned(len(t.Data))
		copy(b, t.Data)
		p = unsafe.Pointer(unsafe.SliceData(b))
	}
	return unsafe.Slice((*T)(p), n)
}
