package runner

import (
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
	up.tiles = make([]byte, tileBytes(up.tiler, n, n))
	packTiles(up.tiler, up.tiles, up.raw, n, n)
	for i, v := range run() {
		if v != made[i] {
			t.Fatalf("element %d is %g with tiles that stay, %g with tiles made", i, v, made[i])
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
