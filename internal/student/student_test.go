package student

import (
	"math"
	"testing"
)

// The tables of t: NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2, critical values.
func TestQuantiles(t *testing.T) {
	const n = 3999
	for _, c := range []struct {
		df           int
		p90, p95, hi float64 // hi: 99.5 %
	}{
		{1, 3.078, 6.314, 63.657},
		{2, 1.886, 2.920, 9.925},
		{4, 1.533, 2.132, 4.604},
		{7, 1.415, 1.895, 3.499},
		{19, 1.328, 1.729, 2.861},
		{63, 1.295, 1.669, 2.656},
	} {
		q := Quantiles(c.df, n)
		if len(q) != n || q[n/2] != 0 {
			t.Fatalf("df %d: %d quantiles, %v in the middle", c.df, len(q), q[n/2])
		}
		for _, x := range []struct{ p, want float64 }{{.9, c.p90}, {.95, c.p95}, {.995, c.hi}, {.1, -c.p90}, {.005, -c.hi}} {
			at := int(math.Round(x.p*(n+1))) - 1
			if got := q[at]; math.Abs(got-x.want) > 6e-4*math.Max(1, math.Abs(x.want)) {
				t.Errorf("df %d, %v: %v, want %v", c.df, x.p, got, x.want)
			}
		}
		for i := 1; i < n; i++ {
			if q[i] <= q[i-1] {
				t.Fatalf("df %d: %v after %v", c.df, q[i], q[i-1])
			}
		}
	}
}
