package runner

import (
	"bytes"
	"testing"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
)

// The tiles that a worker makes stay within what bandBytes counts, though the other weight of a gate wants
// longer bands.
func TestMixedGateTiles(t *testing.T) {
	const n = 1024
	e := newEngine(Options{Threads: 1}, &ir.Decoder{HeadDim: 32, Hidden: n, FFN: n})
	defer e.close()
	up := &linear{rows: n, cols: n, tiler: e.k.Tiler("q8_0"), rowBytes: n / 32 * 34}
	up.raw = make([]byte, n*up.rowBytes)
	for i := range up.raw { // a scale of 2^-10 or so, and codes
		up.raw[i] = byte(i % 17)
	}
	gate := &linear{rows: n, cols: n, floats: make([]float32, n*n)}
	for i := range gate.floats {
		gate.floats[i] = float32(i%7) / 64
	}
	x := kernels.View(make([]float32, 2*n), 2, n)
	for i := range x.Data {
		x.Data[i] = float32(i%5) - 2
	}
	dst := func() product { return product{dst: kernels.View(make([]float32, 2*n), 2, n)} }
	run := func() []float32 {
		g, u := dst(), dst()
		g.w, u.w = gate, up
		e.gate(x, g, u)
		return g.dst.Data
	}
	made := run()
	if most := max(shareBytes, bandTiles*up.tiler.Bytes(n)); len(made) == 0 || cap(e.work[0].tiles) > most {
		t.Errorf("%d bytes of tiles, %d are counted", cap(e.work[0].tiles), most)
	}
	want := make([]byte, tileBytes(up.tiler, n, n))
	packTiles(up.tiler, want, up.raw, n, n)
	for _, keep := range []bool{false, true, true} { // room alone keeps nothing; then a pass that keeps, and one of what was kept
		if up.tiles == nil {
			up.room = make([]byte, len(want))
		}
		e.keep = keep
		for i, v := range run() {
			if v != made[i] {
				t.Fatalf("element %d is %g with tiles that stay: %v, %g with tiles made", i, v, keep, made[i])
			}
		}
		if keep != bytes.Equal(up.tiles, want) || keep != (up.room == nil) {
			t.Errorf("keep %v: %d bytes of tiles stay, room for %d", keep, len(up.tiles), len(up.room))
		}
	}
}

// Pages of one head follow one another: what an item fetches ahead is what its worker reads next.
func TestPartsFollowHeads(t *testing.T) {
	a := attention{first: 3, pages: 5}
	for item := range 14 {
		page, head := a.part(item)
		if next, same := a.part(item + 1); page+1 < a.first+a.pages && (next != page+1 || same != head) {
			t.Errorf("page %d of head %d comes before page %d of head %d", page, head, next, same)
		}
	}
}
