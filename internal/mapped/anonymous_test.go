package mapped

import "testing"

func TestAnonymous(t *testing.T) {
	for _, n := range []int{0, 1, 5000, 5 << 20} {
		a := NewAnonymous(n)
		b := a.Bytes()
		if len(b) != n {
			t.Fatalf("%d bytes, want %d", len(b), n)
		}
		for i, v := range b {
			if v != 0 {
				t.Fatalf("byte %d of %d is %d before anything was written", i, n, v)
			}
			b[i] = byte(i)
		}
		for i, v := range b {
			if v != byte(i) {
				t.Fatalf("byte %d of %d was not kept", i, n)
			}
		}
		if err := a.Close(); err != nil || a.Bytes() != nil {
			t.Errorf("after Close: %d bytes, %v", len(a.Bytes()), err)
		}
		if err := a.Close(); err != nil {
			t.Errorf("closed twice: %v", err)
		}
	}
}
