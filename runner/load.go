package runner

import (
	"context"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// loader prepares weights in one of several ways.
type loader struct {
	k       *kernels.Set
	threads int
	act     Activations
	room    []byte   // for tiles of weights that are not mapped
	spare   []byte   // for tiles of those that are; nil: they are made when they are used
	bufs    [][]byte // of the threads that make tiles
	later   bool     // tiles of mapped weights are laid out in the second pass over them
}

func newLoader(e *engine, act Activations) *loader {
	return &loader{k: e.k, threads: e.pool.Threads(), act: act, bufs: make([][]byte, e.pool.Threads())}
}

// readBand bounds how much is asked from a source at a time: derived sources hold a decoded copy of
// what they are asked for. packBand is that for the encoded rows that become tiles, which stay in a
// second-level cache on the way.
const (
	readBand = 4 << 20
	packBand = 256 << 10
)

// tiler returns the kernels for a tensor whose products take quantized activations; nil for others.
// ggml's block types are defined together with such products, and all runtimes compute them so; numbers
// stored one by one, and schemes of codes with scales, are not. A change kept beside a weight is made
// for real inputs.
func tiler(k *kernels.Set, act Activations, t *ir.Tensor) *kernels.Tiler {
	if act == ActivationsF32 || t.Scheme != nil || t.Side != nil || !(t.Role.Linear() || t.Role == ir.RoleHead || t.Role == ir.RoleEmbedding) {
		return nil
	}
	if _, err := t.Type.RowBytes(t.Cols()); err != nil {
		return nil // rows of no whole blocks: loading says so
	}
	return k.Tiler(string(t.Type))
}

// tileBytes is the size of a tensor's tiles.
func tileBytes(l *kernels.Tiler, rows, cols int) int {
	return (rows + kernels.TileRows - 1) / kernels.TileRows * l.Bytes(cols)
}

// sizeOf is what loading t as it is stored will hold on the heap and what it uses in the mapped file, in
// bytes.
func sizeOf(t *ir.Tensor) (owned, mapped int64, err error) {
	if _, ok := mapWhole(t); ok {
		n, err := t.PartBytes(ir.PartData, 0, t.Rows())
		return 0, n, err
	}
	if t.Scheme == nil {
		n, err := t.PartBytes(ir.PartData, 0, t.Rows())
		return n, 0, err
	}
	owned = int64(t.Rows()) * int64(kernels.PlaneBytes(codeBits(t.Scheme), t.Cols()))
	groups := int64(t.Rows()) * int64(t.Scheme.Groups(t.Cols()))
	if t.Scheme.Group == storage.GroupTensor {
		groups = 1
	}
	owned += 4 * groups
	if !t.Scheme.Symmetric {
		owned += groups
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

// linear prepares t and the bias that goes with it (nil for none). Matrices of more than two dimensions
// are taken as [rows, last dimension]. rows asks for a weight whose rows are looked up, not multiplied.
func (ld *loader) linear(ctx context.Context, t, bias *ir.Tensor, rows bool) (*linear, error) {
	l := &linear{name: t.Name, typ: t.Type, rows: t.Rows(), cols: t.Cols(), side: t.Side}
	if l.side != nil {
		if err := l.side.Check(l.rows, l.cols); err != nil {
			return nil, ir.Wrap(t, "run", err)
		}
	}
	if !rows {
		l.tiler = tiler(ld.k, ld.act, t)
	}
	var err error
	switch {
	case t.Scheme != nil:
		err = l.loadPlanes(ctx, ld.k, t)
	case l.tiler == nil:
		err = l.loadData(ctx, ld.k, t)
	default:
		room := &ld.room
		_, there := mapWhole(t)
		if there {
			room = &ld.spare
		}
		switch {
		case *room == nil:
			err = l.loadData(ctx, ld.k, t)
		case there && ld.later:
			if l.room, err = l.roomIn(room); err == nil {
				err = l.loadData(ctx, ld.k, t)
			}
		default:
			err = ld.loadTiles(ctx, l, t, room)
		}
	}
	if err != nil {
		return nil, ir.Wrap(t, "run", err)
	}
	if bias != nil {
		if l.bias, err = loadVector(ctx, bias); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// loadTiles reads encoded rows, a band at a time on every thread, and keeps them in tiles in a part of
// room only.
func (ld *loader) loadTiles(ctx context.Context, l *linear, t *ir.Tensor, room *[]byte) error {
	rowBytes, err := t.Type.RowBytes(l.cols)
	if err != nil {
		return err
	}
	l.rowBytes = int(rowBytes)
	if err := l.decoders(ld.k, t); err != nil {
		return err
	}
	size := l.tiler.Bytes(l.cols)
	if l.tiles, err = l.roomIn(room); err != nil {
		return err
	}
	if raw, ok := mapWhole(t); ok { // should the tiles be given up one day
		l.raw = raw
		l.file, _ = t.Data.(ir.Mapped)
	}
	tiles := (l.rows + kernels.TileRows - 1) / kernels.TileRows
	grain := max(1, min(packBand/(kernels.TileRows*l.rowBytes), (tiles+ld.threads-1)/ld.threads))
	return par.Range(ctx, ld.threads, tiles, grain, func(worker, lo, hi int) error {
		first, end := lo*kernels.TileRows, min(l.rows, hi*kernels.TileRows)
		buf := ld.buf(worker, (end-first)*l.rowBytes)
		if err := t.Data.ReadRaw(ctx, ir.PartData, buf, first, end); err != nil {
			return err
		}
		packTiles(l.tiler, l.tiles[lo*size:hi*size], buf, end-first, l.cols)
		return nil
	})
}

// roomIn takes a part of room for the tiles of l.
func (l *linear) roomIn(room *[]byte) ([]byte, error) {
	total := tileBytes(l.tiler, l.rows, l.cols)
	if total > len(*room) {
		return nil, fmt.Errorf("tiles of %d bytes, %d are left", total, len(*room))
	}
	part := (*room)[:total:total]
	*room = (*room)[roundUp(total):]
	return part, nil
}

// roundUp keeps tensors on lines of their own.
func roundUp(n int) int { return (n + 63) &^ 63 }

// buf is the scratch of one thread.
func (ld *loader) buf(worker, n int) []byte {
	if cap(ld.bufs[worker]) < n {
		ld.bufs[worker] = make([]byte, n)
	}
	return ld.bufs[worker][:n]
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
	rowBytes, err := t.Type.RowBytes(l.cols)
	if err != nil {
		return err
	}
	l.rowBytes = int(rowBytes)
	total := rowBytes * int64(l.rows)
	if raw, ok := mapWhole(t); ok {
		l.raw = raw
		l.file, _ = t.Data.(ir.Mapped)
	} else {
		l.raw = make([]byte, total)
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
	return l.decoders(k, t)
}

// decoders finds out how rows of raw are read.
func (l *linear) decoders(k *kernels.Set, t *ir.Tensor) error {
	info, ok := storage.Lookup(t.Type)
	if !ok || info.Decode == nil {
		return fmt.Errorf("stored type %s cannot be executed", t.Type)
	}
	decode := k.DecodeRow(string(t.Type))
	if decode == nil {
		decode = info.Decode
	}
	l.decode = func(dst []float32, row int) { decode(dst, l.row(row)) }
	l.one = k.MulStored(string(t.Type))
	l.stored = k.PackStored(string(t.Type))
	return nil
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

// find is the tensor of a role that every model has.
func (x index) find(r ir.Role, b int) (*ir.Tensor, error) {
	if t := x[indexKey{r, b}]; t != nil {
		return t, nil
	}
	where := ""
	if b >= 0 {
		where = fmt.Sprintf(" of block %d", b)
	}
	return nil, &fault.Error{Op: "run", Err: fmt.Errorf("%w: %s%s", ir.ErrMissing, r, where)}
}

func (x index) linear(ctx context.Context, ld *loader, weight, bias ir.Role, b int) (*linear, error) {
	t, err := x.find(weight, b)
	if err != nil {
		return nil, err
	}
	return ld.linear(ctx, t, x[indexKey{bias, b}], false)
}

// loadBlock loads the weights of block b.
func (x index) loadBlock(ctx context.Context, ld *loader, b int) (*block, error) {
	w := &block{}
	for _, v := range blockNorms(w) {
		var err error
		if *v.dst, err = x.vector(ctx, v.role, b); err != nil {
			return nil, err
		}
	}
	for _, v := range blockLinears(w) {
		var err error
		if *v.dst, err = x.linear(ctx, ld, v.weight, v.bias, b); err != nil {
			return nil, err
		}
	}
	return w, nil
}
