package runner

import (
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// pageLen is the number of positions in one page of the key and value cache. Attention adds up a page
// at a time, so it is also the grain of its sums.
const pageLen = 128

// cache holds the keys and values of one layer, by pages of pageLen positions. Within a page, what one
// head reads lies together: keys in panels, then values in rows, as package kernels wants them.
type cache struct {
	kv         storage.Type // F32, F16 or Q8_0
	heads, dim int
	window     int // positions that a token sees, 0 for all before it
	pages      []page
}

// page has one of: numbers, halves, codes with scales in half precision. A page whose positions nobody
// will see again is empty.
type page struct {
	floats []float32
	halves []uint16
	codes  []int8
	slab   *slab // that they lie in
}

// cacheFor is an empty cache of a layer.
func cacheFor(d *ir.Decoder, layer int, kv storage.Type) cache {
	c := cache{kv: kv, heads: d.KVHeads, dim: d.HeadDim}
	if d.Windowed(layer) {
		c.window = d.Window
	}
	return c
}

// headLen is how many numbers the keys, or the values, of one head take in a page.
func (c *cache) headLen() int { return pageLen * c.dim }

// pageBytes is the size of one page.
func (c *cache) pageBytes() int64 {
	n := int64(2 * c.heads * c.headLen())
	switch c.kv {
	case storage.F16:
		return 2 * n
	case storage.Q8_0:
		return n + n/16
	}
	return 4 * n
}

// newPage is a page in a slab.
func (c *cache) newPage(in *slab) page {
	n := 2 * c.heads * c.headLen()
	switch c.kv {
	case storage.F16:
		return page{halves: numbersOf[uint16](in, n), slab: in}
	case storage.Q8_0:
		return page{codes: numbersOf[int8](in, n), halves: numbersOf[uint16](in, n/32), slab: in}
	}
	return page{floats: numbersOf[float32](in, n), slab: in}
}

// empty reports whether the page holds nothing.
func (p page) empty() bool { return p.floats == nil && p.halves == nil }

// first is the first position that a token at pos, or one after it, can see.
func (c *cache) first(pos int) int {
	if c.window == 0 {
		return 0
	}
	return max(0, pos-c.window+1)
}

// missing is how many pages grow would add for positions [pos,n).
func (c *cache) missing(pos, n int) int {
	more := (n+pageLen-1)/pageLen - len(c.pages)
	for i := range min(len(c.pages), c.first(pos)/pageLen) {
		if !c.pages[i].empty() {
			more--
		}
	}
	return max(0, more)
}

// grow makes room for positions below n of a text that goes on at pos. Pages that a window has left
// behind are used again, new ones lie in a slab.
func (c *cache) grow(pos, n int, in *slab) {
	old := 0
	for len(c.pages)*pageLen < n {
		for old < min(len(c.pages), c.first(pos)/pageLen) && c.pages[old].empty() {
			old++
		}
		if old < min(len(c.pages), c.first(pos)/pageLen) {
			c.pages = append(c.pages, c.pages[old])
			c.pages[old] = page{}
			continue
		}
		c.pages = append(c.pages, c.newPage(in))
	}
}

// held is how many pages there are.
func (c *cache) held() (n int) {
	for _, p := range c.pages {
		if !p.empty() {
			n++
		}
	}
	return n
}

// remembers reports whether a token at pos would find all that it sees, and a page to go to: at the
// beginning of a page, or of the text, that one may be given up although nobody reads it.
func (c *cache) remembers(pos int) bool {
	for i := c.first(pos) / pageLen; i*pageLen <= pos && i < len(c.pages); i++ {
		if c.pages[i].empty() {
			return false
		}
	}
	return true
}

// put stores keys and values [tokens, KVHeads*HeadDim] of the positions from pos on.
func (c *cache) put(s *kernels.Set, pos int, k, v kernels.Matrix) {
	for lo := 0; lo < k.Rows; {
		at := (pos + lo) % pageLen
		hi := min(k.Rows, lo+pageLen-at)
		p := c.pages[(pos+lo)/pageLen]
		for h := range c.heads {
			from, to := h*c.dim, (h+1)*c.dim
			place := kernels.Place{K: k.Slice(lo, hi, from, to), V: v.Slice(lo, hi, from, to), At: at}
			switch n := c.headLen(); c.kv {
			case storage.F16:
				s.PutF16(p.halves[2*h*n:][:n], p.halves[(2*h+1)*n:][:n], place)
			case storage.Q8_0:
				s.PutQ8(c.quants(p, 2*h), c.quants(p, 2*h+1), place)
			default:
				s.PutF32(p.floats[2*h*n:][:n], p.floats[(2*h+1)*n:][:n], place)
			}
		}
		lo = hi
	}
}

// quants is one part of a page of codes: keys of head h are part 2h, its values part 2h+1.
func (c *cache) quants(p page, part int) kernels.Quants {
	n := c.headLen()
	return kernels.Quants{Codes: p.codes[part*n:][:n], Scales: p.halves[part*n/32:][:n/32]}
}

// stored is n positions of a head's page as they are kept: keys in whole panels, values in rows.
func (c *cache) stored(i, head, n int) (keys, values kernels.Cached) {
	p, size := c.pages[i], c.headLen()
	panels := (n + kernels.Panel - 1) / kernels.Panel * kernels.Panel * c.dim
	rows := n * c.dim
	k, v := 2*head*size, (2*head+1)*size
	switch c.kv {
	case storage.F16:
		return kernels.Cached{Halves: p.halves[k:][:panels]}, kernels.Cached{Halves: p.halves[v:][:rows]}
	case storage.Q8_0:
		return kernels.Cached{Quants: c.quants(p, 2*head)}, kernels.Cached{Quants: c.quants(p, 2*head+1)}
	}
	return kernels.Cached{Floats: p.floats[k:][:panels]}, kernels.Cached{Floats: p.floats[v:][:rows]}
}

// read is stored as real numbers, which pays when many queries read them: they are decoded into scratch,
// which holds 2*headLen numbers, unless they lie there as they are.
func (c *cache) read(s *kernels.Set, scratch []float32, i, head, n int) (keys, values kernels.Cached) {
	keys, values = c.stored(i, head, n)
	if c.kv == storage.F32 {
		return keys, values
	}
	size := c.headLen()
	panels := (n + kernels.Panel - 1) / kernels.Panel * kernels.Panel * c.dim
	k, v := scratch[:panels], scratch[size:][:n*c.dim]
	if c.kv == storage.F16 {
		s.Widen(k, keys.Halves)
		s.Widen(v, values.Halves)
	} else {
		s.KeysQ8(k, keys.Quants, c.dim)
		s.ValuesQ8(v, values.Quants, c.dim)
	}
	return kernels.Cached{Floats: k}, kernels.Cached{Floats: v}
}

// pageAhead is keys and values that are read next.
type pageAhead struct{ keys, values kernels.Ahead }

// ahead is a head's part of a page, nothing when there is no such page.
func (c *cache) ahead(i, head int) pageAhead {
	if i >= len(c.pages) || c.pages[i].empty() {
		return pageAhead{}
	}
	p, n := c.pages[i], c.headLen()
	k, v := 2*head*n, (2*head+1)*n
	switch c.kv {
	case storage.F16:
		return pageAhead{kernels.AheadOf(p.halves[k:][:n]), kernels.AheadOf(p.halves[v:][:n])}
	case storage.Q8_0: // without the scales
		return pageAhead{kernels.AheadOf(p.codes[k:][:n]), kernels.AheadOf(p.codes[v:][:n])}
	}
	return pageAhead{kernels.AheadOf(p.floats[k:][:n]), kernels.AheadOf(p.floats[v:][:n])}
}
