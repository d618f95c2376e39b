package runner

import (
	"context"
	"errors"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// linear is a weight [rows,cols] ready to be multiplied with: its encoded bytes, where possible in
// the mapped file, and how to turn rows of them into real values.
type linear struct {
	name       string
	rows, cols int
	floats     []float32 // set when the bytes are usable as they are; the rest is nil then
	raw        []byte
	rowBytes   int
	decode     func(dst []float32, row int)                  // one row
	dots       func(dst []float32, rows []byte, x []float32) // products of adjacent rows with one input
	bias       []float32
	side       *ir.LowRank
	owned      int64 // bytes of heap behind it
	mapped     int64 // bytes of mapped files behind it
	file       ir.Mapped
}

// drop gives the pages of the mapped file back until the weight is used again.
func (l *linear) drop() {
	if l != nil && l.file != nil {
		l.file.DropRaw(ir.PartData, 0, l.rows)
	}
}

// readBand bounds how much is asked from a source at a time: derived sources hold a decoded copy of
// what they are asked for.
const readBand = 4 << 20

// sizeOf is what loading t will hold on the heap and what it uses in the mapped file, in bytes.
func sizeOf(t *ir.Tensor) (owned, mapped int64, err error) {
	if _, ok := mapWhole(t); ok {
		n, err := t.PartBytes(ir.PartData, 0, t.Rows())
		return 0, n, err
	}
	if t.Scheme == nil {
		n, err := t.PartBytes(ir.PartData, 0, t.Rows())
		return n, 0, err
	}
	groups := int64(t.Scheme.Groups(t.Cols()))
	owned = t.Elems() + int64(t.Rows())*groups*4
	if !t.Scheme.Symmetric {
		owned += int64(t.Rows()) * groups
	}
	return owned, 0, nil
}

// mapWhole returns the bytes of a whole tensor in the mapped file.
func mapWhole(t *ir.Tensor) ([]byte, bool) {
	if t.Scheme != nil {
		return nil, false
	}
	m, ok := t.Data.(ir.Mapped)
	if !ok {
		return nil, false
	}
	return m.MapRaw(ir.PartData, 0, t.Rows())
}

// loadLinear prepares t and the bias that goes with it (nil for none). Matrices of more than two
// dimensions are taken as [rows, last dimension].
func loadLinear(ctx context.Context, k *kernels.Set, t, bias *ir.Tensor) (*linear, error) {
	l := &linear{name: t.Name, rows: t.Rows(), cols: t.Cols(), side: t.Side}
	if l.side != nil {
		if err := l.side.Check(l.rows, l.cols); err != nil {
			return nil, ir.Wrap(t, "run", err)
		}
	}
	var err error
	if t.Scheme != nil {
		err = l.loadPlanes(ctx, t)
	} else {
		err = l.loadData(ctx, k, t)
	}
	if err != nil {
		return nil, ir.Wrap(t, "run", err)
	}
	if bias != nil {
		if l.bias, err = loadVector(ctx, bias); err != nil {
			return nil, err
		}
		l.owned += int64(len(l.bias)) * 4
	}
	return l, nil
}

// loadVector decodes a small tensor, such as a norm gain or a bias.
func loadVector(ctx context.Context, t *ir.Tensor) ([]float32, error) {
	x, err := ir.ReadAll(ctx, t)
	if err != nil || t.Side == nil {
		return x, err
	}
	if err := t.Side.Check(t.Rows(), t.Cols()); err != nil {
		return nil, ir.Wrap(t, "run", err)
	}
	t.Side.Apply(x, 0, t.Cols())
	return x, nil
}

func (l *linear) loadData(ctx context.Context, k *kernels.Set, t *ir.Tensor) error {
	info, ok := storage.Lookup(t.Type)
	if !ok || info.Decode == nil {
		return fmt.Errorf("stored type %s cannot be executed", t.Type)
	}
	rowBytes, err := t.Type.RowBytes(l.cols)
	if err != nil {
		return err
	}
	l.rowBytes = int(rowBytes)
	total := rowBytes * int64(l.rows)
	if raw, ok := mapWhole(t); ok {
		l.raw, l.mapped = raw, total
		l.file, _ = t.Data.(ir.Mapped)
	} else {
		l.raw, l.owned = make([]byte, total), total
		for _, b := range ir.Bands(l.rows, int64(l.cols)*4, readBand) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := t.Data.ReadRaw(ctx, ir.PartData, l.raw[int64(b.Lo)*rowBytes:int64(b.Hi)*rowBytes], b.Lo, b.Hi); err != nil {
				return err
			}
		}
	}
	if int64(len(l.raw)) != total {
		return fmt.Errorf("%d bytes mapped, %d needed", len(l.raw), total)
	}
	if t.Type == storage.F32 {
		if f, ok := kernels.Floats(l.raw); ok {
			l.floats, l.raw = f, nil
			return nil
		}
	}
	decode := k.DecodeRow(string(t.Type))
	if decode == nil {
		decode = info.Decode
	}
	l.decode = func(dst []float32, row int) { decode(dst, l.row(row)) }
	l.dots = k.DotRows(string(t.Type))
	return nil
}

func (l *linear) row(i int) []byte { return l.raw[i*l.rowBytes:][:l.rowBytes:l.rowBytes] }

// loadPlanes keeps one byte per code and float32 scales, and decodes rows by scale*(q-zero).
func (l *linear) loadPlanes(ctx context.Context, t *ir.Tensor) error {
	s := *t.Scheme
	if s.Bits < 2 || s.Bits > 8 {
		return fmt.Errorf("%d-bit codes cannot be executed", s.Bits)
	}
	bands := ir.Bands(l.rows, int64(l.cols)*4, readBand)
	whole := func(part ir.Part) ([]byte, error) {
		cut := bands
		if s.Group == storage.GroupTensor && part != ir.PartCodes {
			cut = []ir.Band{{Lo: 0, Hi: l.rows}} // one number, which belongs to every band
		}
		var all []byte
		for _, b := range cut {
			n, err := t.PartBytes(part, b.Lo, b.Hi)
			if err != nil {
				return nil, err
			}
			at := len(all)
			all = append(all, make([]byte, n)...)
			if err := t.Data.ReadRaw(ctx, part, all[at:], b.Lo, b.Hi); err != nil {
				return nil, err
			}
		}
		return all, nil
	}
	codes, err := whole(ir.PartCodes)
	if err != nil {
		return err
	}
	packed, err := whole(ir.PartScales)
	if err != nil {
		return err
	}
	info := storage.MustLookup(s.Scale)
	scales := make([]float32, len(packed)/info.BlockBytes)
	info.Decode(scales, packed)
	var zeros []byte
	if !s.Symmetric {
		if zeros, err = whole(ir.PartZeros); err != nil {
			return err
		}
	}
	groups, width := s.Groups(l.cols), s.Group
	if width <= 0 {
		width = l.cols
	}
	perRow := groups
	if s.Group == storage.GroupTensor {
		perRow = 0 // every row uses the one scale
	}
	if len(scales) == 0 || perRow > 0 && len(scales) != l.rows*groups || zeros != nil && len(zeros) != len(scales) {
		return errors.New("scales do not match the groups")
	}
	l.raw, l.rowBytes = codes, l.cols
	l.owned = int64(len(codes) + 4*len(scales) + len(zeros))
	l.decode = func(dst []float32, row int) {
		q := l.row(row)
		for g := range groups {
			at := row*perRow + g
			lo, hi := g*width, min(l.cols, (g+1)*width)
			scale := scales[at]
			if zeros == nil {
				for i, c := range q[lo:hi] {
					dst[lo+i] = scale * float32(int8(c))
				}
				continue
			}
			zero := int(zeros[at])
			for i, c := range q[lo:hi] {
				dst[lo+i] = scale * float32(int(c)-zero)
			}
		}
	}
	return nil
}

// band is rows [lo,hi) as real values: a view of the weight where it is float32, otherwise decoded
// into scratch, which holds (hi-lo)*cols numbers.
func (l *linear) band(scratch []float32, lo, hi int) kernels.Matrix {
	if l.floats != nil {
		return kernels.View(l.floats[lo*l.cols:hi*l.cols], hi-lo, l.cols)
	}
	for i := lo; i < hi; i++ {
		l.decode(scratch[(i-lo)*l.cols:][:l.cols], i)
	}
	return kernels.View(scratch, hi-lo, l.cols)
}

// lookup writes row i of the weight, with the change kept beside it, to dst: an embedding.
func (l *linear) lookup(dst []float32, i int) {
	if l.floats != nil {
		copy(dst, l.floats[i*l.cols:])
	} else {
		l.decode(dst, i)
	}
	if l.side != nil {
		l.side.Apply(dst, int64(i)*int64(l.cols), l.cols)
	}
}

// block is the weights of one decoder block.
type block struct {
	attnNorm, mlpNorm, qNorm, kNorm []float32
	q, k, v, o, gate, up, down      *linear
}

// index finds tensors by role and block.
type index map[indexKey]*ir.Tensor

type indexKey struct {
	role  ir.Role
	block int
}

func indexOf(m *ir.Model) index {
	x := index{}
	for _, t := range m.Tensors() {
		if t.Role != ir.RoleUnknown {
			x[indexKey{t.Role, t.Block}] = t
		}
	}
	return x
}

// vector loads a norm gain; a role that the model does not have gives nil.
func (x index) vector(ctx context.Context, r ir.Role, b int) ([]float32, error) {
	if t := x[indexKey{r, b}]; t != nil {
		return loadVector(ctx, t)
	}
	return nil, nil
}

func (x index) linear(ctx context.Context, k *kernels.Set, weight, bias ir.Role, b int) (*linear, error) {
	t := x[indexKey{weight, b}]
	if t == nil {
		where := ""
		if b >= 0 {
			where = fmt.Sprintf(" of block %d", b)
		}
		return nil, &fault.Error{Op: "run", Err: fmt.Errorf("%w: %s%s", ir.ErrMissing, weight, where)}
	}
	return loadLinear(ctx, k, t, x[indexKey{bias, b}])
}

// loadBlock loads the weights of block b.
func (x index) loadBlock(ctx context.Context, k *kernels.Set, b int) (*block, error) {
	w := &block{}
	for _, v := range blockNorms(w) {
		var err error
		if *v.dst, err = x.vector(ctx, v.role, b); err != nil {
			return nil, err
		}
	}
	for _, v := range blockLinears(w) {
		var err error
		if *v.dst, err = x.linear(ctx, k, v.weight, v.bias, b); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// drop gives the pages of the block's weights back.
func (b *block) drop() {
	for _, l := range blockLinears(b) {
		(*l.dst).drop()
	}
}

// blockLinear ties a place in a block to its roles.
type blockLinear struct {
	dst          **linear
	weight, bias ir.Role
}

func blockLinears(w *block) []blockLinear {
	return []blockLinear{
		{&w.q, ir.RoleAttnQ, ir.RoleAttnQBias},
		{&w.k, ir.RoleAttnK, ir.RoleAttnKBias},
		{&w.v, ir.RoleAttnV, ir.RoleAttnVBias},
		{&w.o, ir.RoleAttnO, ir.RoleAttnOBias},
		{&w.gate, ir.RoleMLPGate, ir.RoleMLPGateBias},
		{&w.up, ir.RoleMLPUp, ir.RoleMLPUpBias},
		{&w.down, ir.RoleMLPDown, ir.RoleMLPDownBias},
	}
}

// blockNorm ties a norm gain of a block to its role.
type blockNorm struct {
	dst  *[]float32
	role ir.Role
}

func blockNorms(w *block) []blockNorm {
	return []blockNorm{
		{&w.attnNorm, ir.RoleAttnNorm},
		{&w.mlpNorm, ir.RoleMLPNorm},
		{&w.qNorm, ir.RoleAttnQNorm},
		{&w.kNorm, ir.RoleAttnKNorm},
	}
}
