package quantize

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// chunkBytes bounds the real values that one worker holds while it encodes: they are read, checked and
// encoded one after the other, and should stay in the cache of a core.
const chunkBytes = 512 << 10

// grain is the number of rows a worker takes at a time: as many as fit in chunkBytes, one at least.
// Where memory is limited all workers together take an eighth of it; writers read on every core at
// once, and each read spreads over the cores again.
func grain(cols, threads int, memory int64) int {
	most := int64(chunkBytes)
	if memory > 0 {
		n := int64(par.Threads(threads))
		most = min(most, memory/(8*n*n))
	}
	return int(max(1, most/int64(4*max(cols, 1))))
}

// encoded is the source of a tensor in another stored type: rows are decoded from the original and
// encoded when somebody reads them. Rows are independent, so any range gives the same bytes.
type encoded struct {
	from       *ir.Tensor
	info       *storage.Info
	importance []float32 // one per column (of each matrix, when the tensor stacks several), or nil
	threads    int
	grain      int
}

func newEncoded(from *ir.Tensor, to storage.Type, importance []float32, env ir.Env) (*encoded, error) {
	info, ok := storage.Lookup(to)
	if !ok || info.Encode == nil {
		return nil, fmt.Errorf("pare does not write type %q", to)
	}
	if err := checkImportance(from, importance); err != nil {
		return nil, err
	}
	return &encoded{
		from: from, info: info, importance: importance,
		threads: env.Threads, grain: grain(from.Cols(), env.Threads, env.Memory),
	}, nil
}

// checkImportance wants one weight per column, or per column of each stacked matrix (experts).
func checkImportance(t *ir.Tensor, importance []float32) error {
	if importance == nil {
		return nil
	}
	cols, rows := t.Cols(), t.Rows()
	if n := len(importance) / max(cols, 1); n == 0 || n*cols != len(importance) || rows%n != 0 {
		return fault.As(fault.ErrMisuse, fmt.Errorf("importance of %d inputs for %d rows of %d", len(importance), rows, cols))
	}
	return nil
}

// importanceRow is the part that belongs to row r.
func importanceRow(t *ir.Tensor, importance []float32, r int) []float32 {
	if importance == nil {
		return nil
	}
	cols := t.Cols()
	i := r / (t.Rows() / (len(importance) / cols))
	return importance[i*cols : (i+1)*cols]
}

// reals are buffers of real values for any tensor.
var reals sync.Pool // *[]float32

func takeReals(n int) *[]float32 {
	if b, ok := reals.Get().(*[]float32); ok && cap(*b) >= n {
		*b = (*b)[:n]
		return b
	}
	b := make([]float32, n)
	return &b
}

// ReadRaw encodes rows [lo,hi).
func (e *encoded) ReadRaw(ctx context.Context, part ir.Part, dst []byte, lo, hi int) error {
	if part != ir.PartData {
		return fmt.Errorf("a tensor of type %s has no part %q", e.info.Type, part)
	}
	if err := ir.CheckRange(e.from.Rows(), lo, hi); err != nil {
		return err
	}
	cols := e.from.Cols()
	row := cols / e.info.BlockElems * e.info.BlockBytes
	if len(dst) != (hi-lo)*row {
		return fmt.Errorf("%d bytes for rows [%d,%d), want %d", len(dst), lo, hi, (hi-lo)*row)
	}
	return par.Range(ctx, e.threads, hi-lo, e.grain, func(_, a, b int) error {
		buf := takeReals((b - a) * cols)
		defer reals.Put(buf)
		x := *buf
		if err := e.from.Data.ReadRows(ctx, x, lo+a, lo+b); err != nil {
			return err
		}
		return e.encodeRows(dst[a*row:b*row], x, lo+a)
	})
}

// encodeRows encodes rows from the one with number first on, as many at a time as share an importance.
func (e *encoded) encodeRows(dst []byte, x []float32, first int) error {
	cols := e.from.Cols()
	row := cols / e.info.BlockElems * e.info.BlockBytes
	for len(x) > 0 {
		n := len(x) / cols
		if e.importance != nil { // up to the next of the stacked matrices
			matrix := e.from.Rows() / (len(e.importance) / cols)
			n = min(n, matrix-first%matrix)
		}
		imp := importanceRow(e.from, e.importance, first)
		if err := e.encode(dst[:n*row], x[:n*cols], imp); err != nil {
			return e.inRows(dst[:n*row], x[:n*cols], imp, first, err)
		}
		dst, x, first = dst[n*row:], x[n*cols:], first+n
	}
	return nil
}

// inRows finds the row that could not be encoded among those that failed together.
func (e *encoded) inRows(dst []byte, x, importance []float32, first int, err error) error {
	cols := e.from.Cols()
	row := cols / e.info.BlockElems * e.info.BlockBytes
	for r := range len(x) / cols {
		xs := x[r*cols : (r+1)*cols]
		if one := e.encode(dst[r*row:(r+1)*row], xs, importance); one != nil {
			return &fault.Error{Tensor: e.from.Name, Op: "encode as " + string(e.info.Type), Err: inRow(first+r, xs, one)}
		}
	}
	return &fault.Error{Tensor: e.from.Name, Op: "encode as " + string(e.info.Type), Err: err}
}

// inRow says which row could not be encoded, and names the element when it is no number.
func inRow(row int, x []float32, err error) error {
	for i, v := range x {
		if v-v != 0 {
			return fmt.Errorf("element [%d %d] is %v: %w", row, i, v, fault.ErrNotFinite)
		}
	}
	return fmt.Errorf("row %d: %w", row, err)
}

func (e *encoded) encode(dst []byte, x, importance []float32) error {
	if err := e.info.Encode(dst, x, importance); err != nil || e.info.Type != storage.F16 {
		return err
	}
	at := 0
	for ; at+8 <= len(dst); at += 8 {
		const exponents, lowest = 0x7c007c007c007c00, 0x0400040004000400
		if (binary.LittleEndian.Uint64(dst[at:])&exponents+lowest)&^exponents != 0 {
			break // one of four exponents is that of infinity
		}
	}
	for _, v := range x[at/2:] {
		if v >= 65520 || v <= -65520 {
			return fmt.Errorf("%v is beyond half precision: %w", v, fault.ErrNotFinite)
		}
	}
	return nil
}

// ReadRows gives the values that the encoded rows decode to.
func (e *encoded) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	if err := ir.CheckRange(e.from.Rows(), lo, hi); err != nil {
		return err
	}
	cols := e.from.Cols()
	if len(dst) != (hi-lo)*cols {
		return fmt.Errorf("%d values for rows [%d,%d) of %d", len(dst), lo, hi, cols)
	}
	row := cols / e.info.BlockElems * e.info.BlockBytes
	raw := make([]byte, min(e.grain*par.Threads(e.threads), hi-lo)*row)
	for a := lo; a < hi; {
		b := min(hi, a+len(raw)/max(row, 1))
		part := raw[:(b-a)*row]
		if err := e.ReadRaw(ctx, ir.PartData, part, a, b); err != nil {
			return err
		}
		e.info.Read(dst[(a-lo)*cols:(b-lo)*cols], part)
		a = b
	}
	return nil
}

// planes is the source of a uniformly quantized tensor. Scales need the whole row (or the whole
// tensor) and, with the clip search, most of the time, while containers store codes and scales
// apart; so the scales of one tensor are computed once and kept while it is being read.
type planes struct {
	from       *ir.Tensor
	u          *Uniform
	importance []float32
	threads    int
	grain      int
	keep       *scaleCache

	mu     sync.Mutex // one pass over the tensor at a time
	tensor *fitted    // of a per-tensor scheme
}

// fitted are the scales and zero points of some rows.
type fitted struct {
	scales []float32
	zeros  []uint8 // nil for symmetric schemes
}

func newPlanes(from *ir.Tensor, s storage.Scheme, clip Clip, importance []float32, env ir.Env, keep *scaleCache) (*planes, error) {
	u, err := NewUniform(s, clip)
	if err != nil {
		return nil, err
	}
	if err := checkImportance(from, importance); err != nil {
		return nil, err
	}
	return &planes{
		from: from, u: u, importance: importance, threads: env.Threads,
		grain: grain(from.Cols(), env.Threads, env.Memory), keep: keep,
	}, nil
}

// each decodes rows [lo,hi) in chunks, on several cores.
func (p *planes) each(ctx context.Context, lo, hi int, fn func(x []float32, a, b int) error) error {
	cols := p.from.Cols()
	return par.Range(ctx, p.threads, hi-lo, p.grain, func(_, a, b int) error {
		x := make([]float32, (b-a)*cols)
		if err := p.from.Data.ReadRows(ctx, x, lo+a, lo+b); err != nil {
			return err
		}
		return fn(x, lo+a, lo+b)
	})
}

// fit returns the scales of rows [lo,hi) (of the tensor, for a per-tensor scheme).
func (p *planes) fit(ctx context.Context, lo, hi int) (*fitted, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.u.scheme.Group == storage.GroupTensor {
		if p.tensor == nil {
			f, err := p.fitTensor(ctx)
			if err != nil {
				return nil, err
			}
			p.tensor = f
		}
		return p.tensor, nil
	}
	groups := p.u.scheme.Groups(p.from.Cols())
	rows := p.from.Rows()
	whole := p.keep.get(p)
	if whole == nil && p.keep.fits(int64(rows)*int64(groups)*5) {
		f, err := p.fitRows(ctx, 0, rows)
		if err != nil {
			return nil, err
		}
		p.keep.put(p, f)
		whole = f
	}
	if whole == nil {
		return p.fitRows(ctx, lo, hi)
	}
	part := &fitted{scales: whole.scales[lo*groups : hi*groups]}
	if whole.zeros != nil {
		part.zeros = whole.zeros[lo*groups : hi*groups]
	}
	return part, nil
}

func (p *planes) fitRows(ctx context.Context, lo, hi int) (*fitted, error) {
	cols := p.from.Cols()
	groups := p.u.scheme.Groups(cols)
	f := &fitted{scales: make([]float32, (hi-lo)*groups)}
	if !p.u.scheme.Symmetric {
		f.zeros = make([]uint8, len(f.scales))
	}
	err := p.each(ctx, lo, hi, func(x []float32, a, b int) error {
		for r := a; r < b; r++ {
			g := (r - lo) * groups
			var zeros []uint8
			if f.zeros != nil {
				zeros = f.zeros[g : g+groups]
			}
			if err := p.u.FitRow(f.scales[g:g+groups], zeros, x[(r-a)*cols:(r-a+1)*cols], importanceRow(p.from, p.importance, r)); err != nil {
				return fmt.Errorf("row %d: %w", r, err)
			}
		}
		return nil
	})
	return f, err
}

// fitTensor finds the range of all rows first. With the clip search a second pass sums the loss of
// every candidate range, row by row in fixed chunks added in order, so that the choice does not
// depend on the number of threads.
func (p *planes) fitTensor(ctx context.Context) (*fitted, error) {
	rows, cols := p.from.Rows(), p.from.Cols()
	lows, highs := make([]float32, rows), make([]float32, rows)
	err := p.each(ctx, 0, rows, func(x []float32, a, b int) (err error) {
		for r := a; r < b && err == nil; r++ {
			lows[r], highs[r], err = p.u.Range(x[(r-a)*cols : (r-a+1)*cols])
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var lo, hi float32
	for r := range lows {
		lo, hi = min(lo, lows[r]), max(hi, highs[r])
	}
	cands, err := p.u.candidates(nil, lo, hi)
	if err != nil {
		return nil, err
	}
	best := 0
	if len(cands) > 1 {
		const tile = 16 // rows whose losses are summed together
		losses := make([]float64, (rows+tile-1)/tile*len(cands))
		err := par.Range(ctx, p.threads, rows, tile, func(_, a, b int) error {
			x := make([]float32, cols)
			sum := losses[a/tile*len(cands):][:len(cands)]
			for r := a; r < b; r++ {
				if err := p.from.Data.ReadRows(ctx, x, r, r+1); err != nil {
					return err
				}
				for i, c := range cands {
					sum[i] += p.u.loss(x, importanceRow(p.from, p.importance, r), c.scale, c.zero, math.Inf(1))
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		total := make([]float64, len(cands))
		for i, l := range losses {
			total[i%len(cands)] += l
		}
		for i, l := range total {
			if l < total[best] {
				best = i
			}
		}
	}
	f := &fitted{scales: []float32{cands[best].scale}}
	if !p.u.scheme.Symmetric {
		f.zeros = []uint8{uint8(cands[best].zero)}
	}
	return f, nil
}

// row are the scales of row i, counted from the first row of f.
func (p *planes) row(f *fitted, i int) (scales []float32, zeros []uint8) {
	if p.u.scheme.Group == storage.GroupTensor {
		return f.scales, f.zeros
	}
	g := p.u.scheme.Groups(p.from.Cols())
	if f.zeros != nil {
		zeros = f.zeros[i*g : (i+1)*g]
	}
	return f.scales[i*g : (i+1)*g], zeros
}

// ReadRaw gives codes, scales or zero points of rows [lo,hi).
func (p *planes) ReadRaw(ctx context.Context, part ir.Part, dst []byte, lo, hi int) error {
	if err := ir.CheckRange(p.from.Rows(), lo, hi); err != nil {
		return err
	}
	f, err := p.fit(ctx, lo, hi)
	if err != nil {
		return err
	}
	cols := p.from.Cols()
	want := len(f.scales)
	switch part {
	case ir.PartScales:
		info := storage.MustLookup(p.u.scheme.Scale)
		if len(dst) != want*info.BlockBytes {
			return fmt.Errorf("%d bytes for %d scales", len(dst), want)
		}
		return info.Encode(dst, f.scales, nil)
	case ir.PartZeros:
		if f.zeros == nil || len(dst) != want {
			return fmt.Errorf("%d bytes for %d zero points", len(dst), len(f.zeros))
		}
		copy(dst, f.zeros)
		return nil
	case ir.PartCodes:
		if len(dst) != (hi-lo)*cols {
			return fmt.Errorf("%d bytes for rows [%d,%d) of %d codes", len(dst), lo, hi, cols)
		}
		return p.each(ctx, lo, hi, func(x []float32, a, b int) error {
			for r := a; r < b; r++ {
				s, z := p.row(f, r-lo)
				p.u.CodesRow(dst[(r-lo)*cols:(r-lo+1)*cols], x[(r-a)*cols:(r-a+1)*cols], s, z)
			}
			return nil
		})
	}
	return fmt.Errorf("a uniform tensor has no part %q", part)
}

// ReadRows gives the values that codes and scales stand for.
func (p *planes) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	if err := ir.CheckRange(p.from.Rows(), lo, hi); err != nil {
		return err
	}
	cols := p.from.Cols()
	if len(dst) != (hi-lo)*cols {
		return fmt.Errorf("%d values for rows [%d,%d) of %d", len(dst), lo, hi, cols)
	}
	f, err := p.fit(ctx, lo, hi)
	if err != nil {
		return err
	}
	return p.each(ctx, lo, hi, func(x []float32, a, b int) error {
		codes := make([]byte, cols)
		for r := a; r < b; r++ {
			s, z := p.row(f, r-lo)
			p.u.CodesRow(codes, x[(r-a)*cols:(r-a+1)*cols], s, z)
			p.u.DequantizeRow(dst[(r-lo)*cols:(r-lo+1)*cols], codes, s, z)
		}
		return nil
	})
}

// scaleCache keeps the scales of the tensors read last, up to a number of bytes.
type scaleCache struct {
	mu    sync.Mutex
	limit int64
	size  int64
	order []*planes // oldest first
	held  map[*planes]*fitted
}

// newScaleCache takes a sixteenth of the memory the pass may use, 64 MiB when that is not limited.
func newScaleCache(memory int64) *scaleCache {
	limit := int64(64 << 20)
	if memory > 0 {
		limit = min(limit, memory/16)
	}
	return &scaleCache{limit: limit, held: map[*planes]*fitted{}}
}

func (c *scaleCache) fits(bytes int64) bool { return bytes <= c.limit }

func (c *scaleCache) get(p *planes) *fitted {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held[p]
}

func (c *scaleCache) put(p *planes, f *fitted) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held[p] = f
	c.order = append(c.order, p)
	c.size += f.bytes()
	for c.size > c.limit && len(c.order) > 1 {
		old := c.order[0]
		c.order = c.order[1:]
		c.size -= c.held[old].bytes()
		delete(c.held, old)
	}
}

func (f *fitted) bytes() int64 { return int64(len(f.scales))*4 + int64(len(f.zeros)) }
