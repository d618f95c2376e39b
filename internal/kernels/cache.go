package kernels

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/x448/float16"
)

// Place is where keys and values of one head go, in one page of a cache: [n,dim] rows of K and V,
// for n positions of the page from At on.
type Place struct {
	K, V Matrix
	At   int
}

// Quants are numbers as 8-bit codes with a half-precision scale for each 32 of a position's numbers.
// Keys lie in panels, codes [dim,Panel] and scales [dim/32,Panel]; values in rows, [dim] and [dim/32].
type Quants struct {
	Codes  []int8
	Scales []uint16
}

// Cached is keys or values as a cache holds them: numbers, halves, or codes with their scales.
type Cached struct {
	Floats []float32
	Halves []uint16
	Quants
}

// len is how many numbers there are, of rows of dim.
func (c Cached) len(dim int) int {
	switch {
	case c.Halves != nil:
		return len(c.Halves)
	case c.Codes != nil && dim%32 == 0:
		return min(len(c.Codes), len(c.Scales)*32)
	}
	return len(c.Floats)
}

// data is where the numbers begin, and those of their scales.
func (c Cached) data() (numbers, scales unsafe.Pointer) {
	switch {
	case c.Halves != nil:
		return at(c.Halves), nil
	case c.Codes != nil:
		return at(c.Codes), at(c.Scales)
	}
	return at(c.Floats), nil
}

// pick is the kernel for the type of the numbers, of those for numbers, halves and codes.
func (c Cached) pick(floats, halves, codes int) int {
	switch {
	case c.Halves != nil:
		return halves
	case c.Codes != nil:
		return codes
	}
	return floats
}

// wide gives at most 32 numbers from i on, which lie in one block. scale is where the scale of the first of
// them is, and every each-th of the scales is that of the next; dst is room for them.
func (c Cached) wide(dst *[Panel]float32, i, n, scale, each int) []float32 {
	switch {
	case c.Halves != nil:
		for l, h := range c.Halves[i:][:n] {
			dst[l] = halfBits(h)
		}
	case c.Codes != nil:
		for l, q := range c.Codes[i:][:n] {
			dst[l] = float32(q) * halfBits(c.Scales[scale+l*each])
		}
	default:
		return c.Floats[i:][:n]
	}
	return dst[:n]
}

type cachePutArgs struct {
	k, v, keys, values, kscale, vscale unsafe.Pointer
	ldk, ldv, n, at, dim               int
}

// put checks a place against the room there is and fills the arguments.
func (p Place) put(keys, values int) cachePutArgs {
	p.K.check("keys")
	p.V.check("values")
	n, dim := p.K.Rows, p.K.Cols
	same("cache", n, p.V.Rows)
	same("cache", dim, p.V.Cols)
	if end := p.At + n; p.At < 0 || (end+Panel-1)/Panel*Panel*dim > keys || end*dim > values {
		panic(fmt.Sprintf("kernels: positions [%d,%d) of %d numbers in %d keys and %d values", p.At, end, dim, keys, values))
	}
	return cachePutArgs{k: at(p.K.Data), v: at(p.V.Data), ldk: p.K.Stride, ldv: p.V.Stride, n: n, at: p.At, dim: dim}
}

// keyAt is where element d of position j lies among keys of dim numbers.
func keyAt(dim, j, d int) int { return j/Panel*dim*Panel + d*Panel + j%Panel }

// PutF32 stores keys and values as they are.
func (s *Set) PutF32(keys, values []float32, p Place) {
	args := p.put(len(keys), len(values))
	if s.code != nil && args.n > 0 && args.dim > 0 {
		args.keys, args.values = at(keys), at(values)
		s.code.call(fnCachePutF32, unsafe.Pointer(&args))
		return
	}
	for i := range args.n {
		for d, v := range p.K.Row(i) {
			keys[keyAt(args.dim, p.At+i, d)] = v
		}
		copy(values[(p.At+i)*args.dim:], p.V.Row(i))
	}
}

// PutF16 stores keys and values in half precision, rounded to the nearest, ties to even.
func (s *Set) PutF16(keys, values []uint16, p Place) {
	args := p.put(len(keys), len(values))
	if s.code != nil && args.n > 0 && args.dim > 0 {
		args.keys, args.values = at(keys), at(values)
		s.code.call(fnCachePutF16, unsafe.Pointer(&args))
		return
	}
	for i := range args.n {
		for d, v := range p.K.Row(i) {
			keys[keyAt(args.dim, p.At+i, d)] = float16.Fromfloat32(v).Bits()
		}
		for d, v := range p.V.Row(i) {
			values[(p.At+i)*args.dim+d] = float16.Fromfloat32(v).Bits()
		}
	}
}

// PutQ8 stores keys and values as codes: scale = max|x|/127 over 32 numbers, in half precision;
// code = x times the inverse of the scale before it is rounded, to the nearest, ties to even. NaN or an
// infinity among them makes the scale NaN. dim is a multiple of 32.
func (s *Set) PutQ8(keys, values Quants, p Place) {
	args := p.put(len(keys.Codes), len(values.Codes))
	if args.dim%32 != 0 || len(keys.Scales)*32 < len(keys.Codes) || len(values.Scales)*32 < len(values.Codes) {
		panic(fmt.Sprintf("kernels: blocks of 32 in rows of %d", args.dim))
	}
	if s.code != nil && args.n > 0 && args.dim > 0 {
		args.keys, args.kscale, args.values, args.vscale = at(keys.Codes), at(keys.Scales), at(values.Codes), at(values.Scales)
		s.code.call(fnCachePutQ8, unsafe.Pointer(&args))
		return
	}
	blocks := args.dim / 32
	for i := range args.n {
		j := p.At + i
		k, v := p.K.Row(i), p.V.Row(i)
		for b := range blocks {
			var q [32]int8
			keys.Scales[j/Panel*blocks*Panel+b*Panel+j%Panel] = codesOf(&q, k[32*b:])
			for l, c := range q {
				keys.Codes[keyAt(args.dim, j, 32*b+l)] = c
			}
			values.Scales[j*blocks+b] = codesOf(&q, v[32*b:])
			copy(values.Codes[j*args.dim+32*b:], q[:])
		}
	}
}

// halfNaN is NaN in half precision.
const halfNaN = 0x7e00

func codesOf(q *[32]int8, x []float32) (scale uint16) {
	most := float32(0)
	for _, v := range x[:32] {
		most = max(most, float32(math.Abs(float64(v)))) // NaN where one is
	}
	if most-most != 0 {
		clear(q[:])
		return halfNaN
	}
	d, id := most/127, float32(0)
	if d != 0 {
		id = 1 / d
	}
	for l, v := range x[:32] {
		q[l] = int8(math.RoundToEven(float64(float32(v * id))))
	}
	return float16.Fromfloat32(d).Bits()
}

// Widen turns numbers in half precision into float32, exactly.
func (s *Set) Widen(dst []float32, src []uint16) {
	same("half", len(dst), len(src))
	if s.code == nil || len(src) == 0 {
		for i, h := range src {
			dst[i] = halfBits(h)
		}
		return
	}
	for lo := 0; lo < len(src); lo += most {
		n := min(most, len(src)-lo)
		args := decodeArgs{at(dst[lo:]), at(src[lo:]), n}
		s.code.call(fnDecodeF16, unsafe.Pointer(&args))
	}
}

type cacheGetArgs struct {
	dst, codes, scale unsafe.Pointer
	n, dim            int
}

// KeysQ8 decodes panels of keys of dim numbers.
func (s *Set) KeysQ8(dst []float32, keys Quants, dim int) {
	n := len(dst) / (dim * Panel)
	if dim%32 != 0 || len(dst) != n*dim*Panel || len(keys.Codes) < len(dst) || len(keys.Scales)*32 < len(dst) {
		panic(fmt.Sprintf("kernels: %d numbers of keys of %d", len(dst), dim))
	}
	if s.code != nil && n > 0 {
		args := cacheGetArgs{at(dst), at(keys.Codes), at(keys.Scales), n, dim}
		s.code.call(fnCacheKeysQ8, unsafe.Pointer(&args))
		return
	}
	for i := range dst {
		block := i / (32 * Panel)
		dst[i] = float32(keys.Codes[i]) * halfBits(keys.Scales[block*Panel+i%Panel])
	}
}

// ValuesQ8 decodes rows of values of dim numbers.
func (s *Set) ValuesQ8(dst []float32, values Quants, dim int) {
	n := len(dst) / dim
	if dim%32 != 0 || len(dst) != n*dim || len(values.Codes) < len(dst) || len(values.Scales)*32 < len(dst) {
		panic(fmt.Sprintf("kernels: %d numbers of values of %d", len(dst), dim))
	}
	if s.code != nil && n > 0 {
		args := cacheGetArgs{at(dst), at(values.Codes), at(values.Scales), n, dim}
		s.code.call(fnCacheValuesQ8, unsafe.Pointer(&args))
		return
	}
	for i := range dst {
		dst[i] = float32(values.Codes[i]) * halfBits(values.Scales[i/32])
	}
}
