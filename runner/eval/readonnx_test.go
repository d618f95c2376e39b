package eval

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/pare-dev/pare/ir/graph"
)

// A reader of ONNX files that is just good enough for the conformance cases.

var errWire = errors.New("broken protobuf")

// field is one field of a message: a number, or bytes.
type field struct {
	num, wire int
	v         uint64
	b         []byte
}

func fields(b []byte) ([]field, error) {
	var out []field
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errWire
		}
		b = b[n:]
		f := field{num: int(key >> 3), wire: int(key & 7)}
		switch f.wire {
		case 0:
			f.v, n = binary.Uvarint(b)
			if n <= 0 {
				return nil, errWire
			}
			b = b[n:]
		case 1:
			f.v, f.b, b = binary.LittleEndian.Uint64(b), b[:8], b[8:]
		case 5:
			f.v, f.b, b = uint64(binary.LittleEndian.Uint32(b)), b[:4], b[4:]
		case 2:
			l, n := binary.Uvarint(b)
			if n <= 0 || l > uint64(len(b)-n) {
				return nil, errWire
			}
			f.b, b = b[n:n+int(l)], b[n+int(l):]
		default:
			return nil, errWire
		}
		out = append(out, f)
	}
	return out, nil
}

// varints of a repeated field, packed or not.
func (f field) varints() []int64 {
	if f.wire == 0 {
		return []int64{int64(f.v)}
	}
	var out []int64
	for b := f.b; len(b) > 0; {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			break
		}
		out, b = append(out, int64(v)), b[n:]
	}
	return out
}

func readTensor(b []byte) (*graph.Tensor, string, error) {
	fs, err := fields(b)
	if err != nil {
		return nil, "", err
	}
	t := &graph.Tensor{Shape: []int{}}
	var name string
	var raw, wide []byte
	var ints []int64
	for _, f := range fs {
		switch f.num {
		case 1:
			for _, d := range f.varints() {
				t.Shape = append(t.Shape, int(d))
			}
		case 2:
			t.Type = graph.DType(f.v)
		case 4, 10:
			wide = append(wide, f.b...)
		case 5, 7, 11:
			ints = append(ints, f.varints()...)
		case 6:
			t.Strings = append(t.Strings, string(f.b))
		case 8:
			name = string(f.b)
		case 9:
			raw = f.b
		}
	}
	if t.Type == graph.String {
		return t, name, nil
	}
	t.Data = graph.Aligned(t.Type.Bytes(t.Elems()))
	switch {
	case raw != nil:
		copy(t.Data, raw)
	case wide != nil:
		copy(t.Data, wide)
	default:
		size := max(1, t.Type.Bits()/8)
		for i, v := range ints {
			var eight [8]byte
			binary.LittleEndian.PutUint64(eight[:], uint64(v))
			copy(t.Data[i*size:], eight[:size])
		}
	}
	return t, name, nil
}

type scope struct {
	values map[string]*graph.Value
	outer  *scope
}

func (s *scope) find(name string) *graph.Value {
	for ; s != nil; s = s.outer {
		if v := s.values[name]; v != nil {
			return v
		}
	}
	return nil
}

func (s *scope) value(name string) *graph.Value {
	v := s.values[name]
	if v == nil {
		v = &graph.Value{Name: name}
		s.values[name] = v
	}
	return v
}

func readType(v *graph.Value, b []byte) error {
	fs, err := fields(b)
	if err != nil {
		return err
	}
	for _, f := range fs {
		inner, err := fields(f.b)
		if err != nil {
			return err
		}
		switch f.num {
		case 1:
			for _, t := range inner {
				switch t.num {
				case 1:
					v.Type = graph.DType(t.v)
				case 2:
					shape := graph.Shape{}
					dims, err := fields(t.b)
					if err != nil {
						return err
					}
					for _, d := range dims {
						dim := graph.Dim{Size: -1}
						parts, err := fields(d.b)
						if err != nil {
							return err
						}
						for _, p := range parts {
							if p.num == 1 {
								dim.Size = int(p.v)
							} else if p.num == 2 {
								dim.Name = string(p.b)
							}
						}
						shape = append(shape, dim)
					}
					v.Shape = &shape
				}
			}
		case 4, 9:
			sub := &graph.Value{}
			if err := readType(sub, inner[0].b); err != nil {
				return err
			}
			v.Type = sub.Type
			v.Kind = graph.KindSequence
			if f.num == 9 && sub.Kind == graph.KindSequence {
				v.Kind = graph.KindOptionalSequence
			} else if f.num == 9 {
				v.Kind = graph.KindOptional
			}
		}
	}
	return nil
}

func readGraph(b []byte, outer *scope) (*graph.Graph, error) {
	fs, err := fields(b)
	if err != nil {
		return nil, err
	}
	s := &scope{values: map[string]*graph.Value{}, outer: outer}
	g := &graph.Graph{}
	info := func(b []byte) (*graph.Value, error) {
		fs, err := fields(b)
		if err != nil {
			return nil, err
		}
		v := s.value(string(fs[0].b))
		for _, f := range fs {
			if f.num == 2 {
				err = readType(v, f.b)
			}
		}
		return v, err
	}
	for _, f := range fs {
		if f.num == 5 {
			t, name, err := readTensor(f.b)
			if err != nil {
				return nil, err
			}
			s.value(name).Const = t
		}
	}
	for _, f := range fs {
		if f.num == 11 {
			v, err := info(f.b)
			if err != nil {
				return nil, err
			}
			g.Inputs = append(g.Inputs, v)
		}
	}
	for _, f := range fs {
		if f.num == 1 {
			n, err := readNode(f.b, s)
			if err != nil {
				return nil, err
			}
			g.Nodes = append(g.Nodes, n)
		}
	}
	for _, f := range fs {
		if f.num != 12 {
			continue
		}
		name, err := fields(f.b)
		if err != nil {
			return nil, err
		}
		if v := s.find(string(name[0].b)); v != nil && s.values[v.Name] == nil {
			g.Outputs = append(g.Outputs, v) // of a graph around this one
			continue
		}
		v, err := info(f.b)
		if err != nil {
			return nil, err
		}
		g.Outputs = append(g.Outputs, v)
	}
	return g, nil
}

func readNode(b []byte, s *scope) (*graph.Node, error) {
	fs, err := fields(b)
	if err != nil {
		return nil, err
	}
	n := &graph.Node{Attrs: map[string]graph.Attr{}}
	for _, f := range fs {
		switch f.num {
		case 1:
			var v *graph.Value
			if len(f.b) > 0 {
				if v = s.find(string(f.b)); v == nil {
					return nil, fmt.Errorf("nobody makes %s", f.b)
				}
			}
			n.In = append(n.In, v)
		case 3:
			n.Name = string(f.b)
		case 4:
			n.Op = string(f.b)
		case 5:
			name, a, err := readAttr(f.b, s)
			if err != nil {
				return nil, err
			}
			n.Attrs[name] = a
		case 7:
			n.Domain = string(f.b)
		}
	}
	for _, f := range fs {
		if f.num == 2 {
			var v *graph.Value
			if len(f.b) > 0 {
				v = s.value(string(f.b))
			}
			n.Out = append(n.Out, v)
		}
	}
	return n, nil
}

func readAttr(b []byte, s *scope) (string, graph.Attr, error) {
	fs, err := fields(b)
	if err != nil {
		return "", graph.Attr{}, err
	}
	var name string
	var a graph.Attr
	for _, f := range fs {
		switch f.num {
		case 1:
			name = string(f.b)
		case 2:
			a.Float = math.Float32frombits(uint32(f.v))
		case 3:
			a.Int = int64(f.v)
		case 4:
			a.String = string(f.b)
		case 5:
			a.Tensor, _, err = readTensor(f.b)
		case 6:
			a.Graph, err = readGraph(f.b, s)
		case 7:
			for b := f.b; len(b) >= 4; b = b[4:] {
				a.Floats = append(a.Floats, math.Float32frombits(binary.LittleEndian.Uint32(b)))
			}
		case 8:
			a.Ints = append(a.Ints, f.varints()...)
		case 9:
			a.Strings = append(a.Strings, string(f.b))
		case 20:
			a.Kind = graph.AttrKind(f.v)
		}
		if err != nil {
			return "", a, err
		}
	}
	if a.Kind > graph.AttrGraphs {
		a.Kind = graph.AttrOther
	}
	return name, a, nil
}

func readModel(b []byte) (*graph.Graph, error) {
	fs, err := fields(b)
	if err != nil {
		return nil, err
	}
	var g *graph.Graph
	opset := map[string]int{}
	for _, f := range fs {
		switch f.num {
		case 7:
			if g, err = readGraph(f.b, nil); err != nil {
				return nil, err
			}
		case 8:
			o, err := fields(f.b)
			if err != nil {
				return nil, err
			}
			dom, v := "", 0
			for _, x := range o {
				if x.num == 1 {
					dom = string(x.b)
				} else {
					v = int(x.v)
				}
			}
			opset[dom] = v
		}
	}
	if g == nil {
		return nil, errWire
	}
	g.Opset = opset
	return g, nil
}

// readValue reads a tensor, sequence or optional, as a graph declares it.
func readValue(b []byte, kind graph.Kind) (Value, error) {
	switch kind {
	case graph.KindTensor:
		t, _, err := readTensor(b)
		return Of(t), err
	case graph.KindSequence:
		fs, err := fields(b)
		if err != nil {
			return Value{}, err
		}
		v := Value{Kind: kind, Seq: []*graph.Tensor{}}
		for _, f := range fs {
			if f.num == 3 {
				t, _, err := readTensor(f.b)
				if err != nil {
					return Value{}, err
				}
				v.Seq = append(v.Seq, t)
			}
		}
		return v, nil
	}
	fs, err := fields(b)
	if err != nil {
		return Value{}, err
	}
	v := Value{Kind: kind}
	for _, f := range fs {
		switch f.num {
		case 3:
			v.Tensor, _, err = readTensor(f.b)
		case 5:
			var s Value
			s, err = readValue(f.b, graph.KindSequence)
			v.Seq, v.Some = s.Seq, true
		}
		if err != nil {
			return Value{}, err
		}
	}
	return v, nil
}
