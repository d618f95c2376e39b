package kernels

import (
	"context"
	"fmt"
	"unsafe"

	"github.com/pare-dev/pare/internal/par"
)

// Gram accumulates X^T X, the second moments of the rows of X [t,k], which arrive in any number of
// pieces. Products of 256 consecutive rows are summed in single precision, in the order of the rows;
// these sums are added in double precision. The result depends on the rows and their order, not on
// the pieces they came in nor on the number of threads.
type Gram struct {
	set  *Set
	k    int
	rows int       // rows waiting in pack
	pack []float32 // [panels][gramRows][gramCols], the last panel padded with zeros
	sum  []float64 // [k,k], the blocks on and above the diagonal
	seen int64
}

const (
	gramRows = 256
	gramCols = 32
)

// NewGram makes an accumulator for rows of k numbers. It holds 8*k*k bytes of sums and 1024*k bytes
// of waiting rows.
func (s *Set) NewGram(k int) *Gram {
	if k <= 0 {
		panic(fmt.Sprintf("kernels: gram matrix of rows of %d numbers", k))
	}
	panels := (k + gramCols - 1) / gramCols
	return &Gram{set: s, k: k, pack: make([]float32, panels*gramRows*gramCols), sum: make([]float64, k*k)}
}

// Rows is the number of rows added so far.
func (g *Gram) Rows() int64 { return g.seen }

// Add takes more rows, k numbers each. It stops between blocks of rows when the context ends.
func (g *Gram) Add(ctx context.Context, threads int, x []float32) error {
	if len(x)%g.k != 0 {
		panic(fmt.Sprintf("kernels: %d numbers are not rows of %d", len(x), g.k))
	}
	for len(x) > 0 {
		n := min(gramRows-g.rows, len(x)/g.k)
		for r := range n {
			row := x[r*g.k:][:g.k]
			for p := 0; p < g.k; p += gramCols {
				copy(g.pack[p*gramRows+(g.rows+r)*gramCols:][:gramCols], row[p:])
			}
		}
		x = x[n*g.k:]
		g.rows += n
		g.seen += int64(n)
		if g.rows == gramRows {
			if err := g.flush(ctx, threads); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// flush adds the products of the waiting rows to the sums, one panel of 32 rows of the result at a
// time on each thread.
func (g *Gram) flush(ctx context.Context, threads int) error {
	panels := (g.k + gramCols - 1) / gramCols
	err := par.Range(ctx, threads, panels, 1, func(_, i, _ int) error {
		a := g.pack[i*gramRows*gramCols:][:gramRows*gramCols]
		for j := i; j < panels; j++ {
			b := g.pack[j*gramRows*gramCols:][:gramRows*gramCols]
			g.set.gramTile(g.sum[i*gramCols*g.k+j*gramCols:], g.k, a, b, g.rows,
				min(gramCols, g.k-i*gramCols), min(gramCols, g.k-j*gramCols))
		}
		return nil
	})
	g.rows = 0
	return err
}

// Sum finishes the rows that wait and returns X^T X, [k,k] row-major and symmetric. The slice belongs
// to the accumulator until it is dropped: more rows may be added, after which Sum must be called
// again. A caller that changes the slice must not add more.
func (g *Gram) Sum(ctx context.Context, threads int) ([]float64, error) {
	if err := g.flush(ctx, threads); err != nil {
		return nil, err
	}
	// square by square, since a column of a large matrix lies a page apart from number to number
	panels := (g.k + gramCols - 1) / gramCols
	return g.sum, par.Range(ctx, threads, panels, 1, func(_, p, _ int) error {
		for q := range p + 1 {
			for i := p * gramCols; i < min(g.k, (p+1)*gramCols); i++ {
				for j := q * gramCols; j < min(i, (q+1)*gramCols); j++ {
					g.sum[i*g.k+j] = g.sum[j*g.k+i]
				}
			}
		}
		return nil
	})
}

type gramTileArgs struct {
	sum, a, b   unsafe.Pointer
	ld, t, m, n int
}

// gramTile adds a^T b to an m by n part of the sums with row stride ld: a and b are [t,32], of which
// m and n columns count.
func (s *Set) gramTile(sum []float64, ld int, a, b []float32, t, m, n int) {
	if s.code != nil {
		args := gramTileArgs{at(sum), at(a), at(b), ld, t, m, n}
		s.code.call(fnGramTile, unsafe.Pointer(&args))
		return
	}
	var acc [gramCols]float32
	for i := range m {
		clear(acc[:])
		for r := range t {
			v, row := a[r*gramCols+i], b[r*gramCols:][:gramCols]
			for j := range acc {
				acc[j] += float32(v * row[j])
			}
		}
		for j, v := range acc[:n] {
			sum[i*ld+j] += float64(v)
		}
	}
}
