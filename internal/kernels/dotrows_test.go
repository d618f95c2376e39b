package kernels

import "testing"

func TestDotRows(t *testing.T) {
	for name, b := range blocks {
		for _, s := range All() {
			one, many := s.DotRow(name), s.DotRows(name)
			const cols, rows = 512, 7
			size := cols / b.elems * b.bytes
			raw, x := randomBlocks(newRand(), name, rows*cols/b.elems, true), fill(newRand(), cols)
			got := make([]float32, rows)
			many(got, raw, x)
			for i := range got {
				if want := one(raw[i*size:(i+1)*size], x); got[i] != want {
					t.Errorf("%s on %s, row %d: %v, DotRow gives %v", name, s.Level(), i, got[i], want)
				}
			}
			many(nil, nil, x)
		}
	}
	if All()[0].DotRows("q9_9") != nil {
		t.Error("a kernel for a type that does not exist")
	}
	defer func() {
		if recover() == nil {
			t.Error("a row cut short was accepted")
		}
	}()
	All()[0].DotRows("q8_0")(make([]float32, 2), make([]byte, 67), make([]float32, 32))
}
