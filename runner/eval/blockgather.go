package eval

import (
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Domain: msDomain, Name: "GatherBlockQuantized", Inputs: 3, Plan: planBlockGather})
}

// planBlockGather takes rows of a table whose codes have scales for blocks, such as embeddings in 4 bits. Codes of 4 and
// 8 bits also come as bytes, then two of 4 bits in each, the first one below.
func planBlockGather(c *Call) (Step, error) {
	n, table, scales := c.Node, c.Shape(0), c.Shape(2)
	if len(table) < 2 || len(scales) != len(table) || c.Type(2) != graph.Float32 && c.Type(2) != graph.Float16 {
		return Step{}, c.Fault("codes %s %v, scales %s %v", c.Type(0), table, c.Type(2), scales)
	}
	bits := c.Type(0).Bits()
	if c.Type(0) == graph.Uint8 {
		bits = n.Int("bits", 4)
	} else if c.Type(0) != graph.Uint4 && c.Type(0) != graph.Int4 {
		return Step{}, c.Fault("codes of type %s", c.Type(0))
	}
	last, block := len(table)-1, n.Int("block_size", 128)
	along, err := axisOf(n.Int("quantize_axis", 1), len(table))
	if err != nil || n.Int("gather_axis", 0) != 0 || along != last || block < 16 || block&(block-1) != 0 || bits != 4 && bits != 8 {
		return Step{}, c.Fault("gather_axis %d, quantize_axis %d, blocks of %d, %d bits: rows are taken from the first dimension, blocks along the last", n.Int("gather_axis", 0), n.Int("quantize_axis", 1), block, bits)
	}
	width := table[last] // codes of a line
	if c.Type(0) == graph.Uint8 {
		width = width * 8 / bits
	}
	lines := graph.Elems(table[1:last]) // of a row
	blocks := (width + block - 1) / block
	zero := float32(0)
	if c.Type(0) == graph.Uint8 {
		zero = float32(int(1) << (bits - 1))
	}
	if !slices.Equal(scales, append(slices.Clone(table[:last]), blocks)) {
		return Step{}, c.Fault("scales %v for %v in blocks of %d", scales, table, block)
	}
	points := blocks
	if c.Has(3) {
		if c.Type(0) == graph.Uint8 {
			points = (blocks*bits + 7) / 8
		}
		if !slices.Equal(c.Shape(3), append(slices.Clone(table[:last]), points)) || c.Type(3) != c.Type(0) {
			return Step{}, c.Fault("zero points %s %v for scales %v", c.Type(3), c.Shape(3), scales)
		}
	}
	if t := c.Type(1); t != graph.Int32 && t != graph.Int64 {
		return Step{}, c.Fault("indices of type %s", t)
	}
	signed := c.Type(0) == graph.Int4
	shape := slices.Concat(c.Shape(1), table[1:last], []int{width})
	if err := graph.CheckShape(shape); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	// a line of packed bytes begins at a byte; codes of 4-bit types follow each other without gaps
	return Step{Out: []Spec{Out(c.Type(2), shape...)}, Run: func(w *Worker, in, out []*graph.Tensor) error {
		index, err := in[1].Ints()
		if err != nil {
			return err
		}
		for _, i := range index {
			if i < -int64(table[0]) || i >= int64(table[0]) {
				return indexError(i, table[0])
			}
		}
		var zeros []byte
		if len(in) > 3 && in[3] != nil {
			zeros = in[3].Data
		}
		code := func(data []byte, i int) float32 {
			v := int(getBits(data, i, bits))
			if signed && v >= 8 {
				v -= 16
			}
			return float32(v)
		}
		scale, y := realElems(in[2]), make([]float32, len(index)*lines*width)
		w.Range(len(index)*lines, width, func(lo, hi int) {
			for l := lo; l < hi; l++ {
				row := int(index[l/lines])
				if row < 0 {
					row += table[0]
				}
				line := row*lines + l%lines
				first, point := line*width, line*blocks
				if c.Type(0) == graph.Uint8 {
					first, point = line*table[last]*8/bits, line*points*8/bits
				}
				for j := range width {
					z := zero
					if zeros != nil {
						z = code(zeros, point+j/block)
					}
					y[l*width+j] = (code(in[0].Data, first+j) - z) * scale[line*blocks+j/block]
				}
			}
		})
		recode(out[0], graph.From(graph.Float32, y, out[0].Shape...))
		return nil
	}}, nil
}
