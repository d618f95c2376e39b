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

// powerTable is |e|^norm for rounding errors in steps, which lie in [0, 0.5] except where a value
// is clipped. Linear interpolation in 2048 cells is within 1e-6 of the power for every norm above
// 1, far below what tells two ranges apart.
type powerTable struct {
	norm  float64
	cells [2050]float64
}

func newPowerTable(norm float64) *powerTable {
	t := &powerTable{norm: norm}
	for i := range t.cells {
		t.cells[i] = power(float64(i)/4096, norm)
	}
	return t
}

func (t *powerTable) of(e float64) float64 {
	if t.norm == 2 {
		return float64(e * e)
	}
	if e > 0.5 {
		return power(e, t.norm)
	}
	p := e * 4096 // exact
	i := int(p)
	a := t.cells[i]
	return a + float64((t.cells[i+1]-a)*(p-float64(i)))
}
