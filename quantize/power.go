package quantize

import "math"

// power is x^n for x >= 0 to about 1e-14, from additions, multiplications and divisions that are
// each rounded, so that it has the same bits on every machine; math.Pow has not.
func power(x, n float64) float64 {
	if x == 0 {
		return 0
	}
	const ln2 = math.Ln2
	m, e := math.Frexp(x)
	if m < math.Sqrt2/2 {
		m, e = m*2, e-1
	}
	// ln m = 2 atanh t, |t| < 0.172
	t := (m - 1) / (m + 1)
	t2 := float64(t * t)
	var s float64
	for k := 23; k >= 1; k -= 2 {
		s = float64(s*t2) + inverses[k]
	}
	y := float64(n * (float64(float64(e)*ln2) + float64(2*float64(t*s))))
	k := math.Floor(y/ln2 + 0.5)
	r := y - float64(k*ln2)
	s = 1
	for i := 18; i >= 1; i-- {
		s = float64(float64(s*r)*inverses[i]) + 1
	}
	return math.Ldexp(s, int(k))
}

var inverses = func() (v [24]float64) {
	for i := range v[1:] {
		v[i+1] = 1 / float64(i+1)
	}
	return v
}()

// powerTable is |e|^norm for errors in steps between 2^-12 and 2^12, 64 entries for each power of
// two with straight lines between them: within 2e-4 of the value, and always above it, so that
// comparing two sums loses less than that. Smaller errors count as nothing.
type powerTable struct {
	norm  float64
	cells [24*64 + 1]float64
}

const (
	tableShift = 23 - 6                  // mantissa bits below those that choose the entry
	tableBase  = (127 - 12) << 6         // entry of 2^-12
	tableFrac  = 1<<tableShift - 1       // the bits below
	tableUnit  = 1.0 / (1 << tableShift) // and what one of them is worth
)

func newPowerTable(norm float64) *powerTable {
	t := &powerTable{norm: norm}
	for i := range t.cells {
		t.cells[i] = power(float64(math.Float32frombits(uint32(i+tableBase)<<tableShift)), norm)
	}
	return t
}

// of looks up e >= 0.
func (t *powerTable) of(e float32) float64 {
	b := math.Float32bits(e)
	i := int(b>>tableShift) - tableBase
	if uint(i) >= uint(len(t.cells)-1) {
		return t.outside(e, i)
	}
	a := t.cells[i]
	return a + float64((t.cells[i+1]-a)*float64(float64(b&tableFrac)*tableUnit))
}

func (t *powerTable) outside(e float32, i int) float64 {
	if i < 0 {
		return 0
	}
	return power(float64(e), t.norm)
}
