package verify_test

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
	"github.com/pare-dev/pare/runner/verify"
)

// figures run a comparison and give what it found, without clocks.
func figures(t *testing.T, a, b *runner.Runner, tokens []int32, opt verify.Options) (verify.Result, verify.Speed) {
	t.Helper()
	r, err := verify.Run(context.Background(), a, b, tokens, opt)
	if err != nil {
		t.Fatal(err)
	}
	out, speed := *r, r.Speed
	out.Seconds, out.Speed = 0, verify.Speed{}
	return out, speed
}

func loadWith(t *testing.T, m *ir.Model, opt runner.Options) *runner.Runner {
	t.Helper()
	r, err := runner.Load(context.Background(), m, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// Every figure is the same to the last bit at any number of threads and however long batches are.
func TestSameFigures(t *testing.T) {
	m, tokens := openBooks(t)
	q := plant(t, m, map[string]storage.Type{worst: storage.Q4_0})
	opt := verify.Options{Context: 128, Chunks: 3, BOS: 1}
	want, speed := figures(t, load(t, m), load(t, q), tokens, opt)
	if len(want.Layers) != m.Decoder.Layers || want.Layers[2].SQNR != 200 || !(want.Layers[3].SQNR < 60) || want.KL.Mean <= 0 {
		t.Errorf("block 3 was changed, no other before it: %+v, KL %v", want.Layers, want.KL.Mean)
	}
	// one model after the other takes at least the time of both
	if s := speed; !(s.Whole > 0 && s.Whole < s.Original && s.Whole < s.Package && 1/s.Whole > 0.99*(1/s.Original+1/s.Package)) {
		t.Errorf("speed %+v", s)
	}
	for _, o := range []struct{ a, b runner.Options }{
		{runner.Options{Threads: 1}, runner.Options{Threads: 2}},
		{runner.Options{Batch: 50}, runner.Options{Batch: 42}}, // which leaves a token alone
		{runner.Options{Batch: 40}, runner.Options{Batch: 30, Threads: 1}},
	} {
		if got, _ := figures(t, loadWith(t, m, o.a), loadWith(t, q, o.b), tokens, opt); !reflect.DeepEqual(got, want) {
			t.Errorf("%+v: %+v, want %+v", o, got, want)
		}
	}
}

// Comparing with what was recorded of the original gives the same figures as running it.
func TestRecording(t *testing.T) {
	m, tokens := openBooks(t)
	a := load(t, m)
	other := load(t, plant(t, m, map[string]storage.Type{worst: storage.Q2K}))
	b := load(t, plant(t, m, map[string]storage.Type{worst: storage.Q4_0}))
	opt := verify.Options{Context: 64, Chunks: 4, BOS: -1}
	want, _ := figures(t, a, b, tokens, opt)
	later := opt
	later.First = 2
	wantLater, _ := figures(t, a, b, tokens, later)
	states := int64(31*m.Decoder.Hidden + 64) // tokens scored and tokens of a chunk
	if r := (&verify.Recording{}); r.Bytes(m.Decoder, 64) != 4*states {
		t.Errorf("a chunk takes %d bytes, %d numbers are kept", r.Bytes(m.Decoder, 64), states)
	}
	for _, c := range []struct {
		name string
		rec  verify.Recording
		runs bool // the original, for some chunks
		less bool // no figures of blocks
	}{
		{"everything", verify.Recording{Most: 1 << 30, Blocks: true}, false, false},
		{"two of four chunks", verify.Recording{Most: 2 * 4 * (states + int64(31*m.Decoder.Hidden*m.Decoder.Layers)), Blocks: true}, true, false},
		{"nothing", verify.Recording{Most: 1000, Blocks: true}, true, false},
		{"final states", verify.Recording{Most: 4 * 4 * states}, false, true},
	} {
		opt, later := opt, later
		opt.Recording, later.Recording = &c.rec, &c.rec
		first, speed := figures(t, a, other, tokens, opt)
		if first.KL.Mean == want.KL.Mean || speed.Original == 0 || len(first.Layers) != m.Decoder.Layers {
			t.Errorf("%s: the first package: KL %v, speed %+v", c.name, first.KL.Mean, speed)
		}
		expect := want
		if c.less {
			expect.Layers = nil
		}
		got, speed := figures(t, a, b, tokens, opt)
		if !reflect.DeepEqual(got, expect) {
			t.Errorf("%s: %+v, want %+v", c.name, got, expect)
		}
		if runs := speed.Original > 0; runs != c.runs {
			t.Errorf("%s: the original was run: %v", c.name, runs)
		}
		expect = wantLater // its last two chunks were not recorded
		if c.less {
			expect.Layers = nil
		}
		if got, _ := figures(t, a, b, tokens, later); !reflect.DeepEqual(got, expect) {
			t.Errorf("%s, later chunks: %+v, want %+v", c.name, got, expect)
		}
		// what was recorded of one text says nothing of another
		text := append([]int32(nil), tokens[:4*64]...)
		text[70]++
		fresh := opt
		fresh.Recording = nil
		expect, _ = figures(t, a, b, text, fresh)
		if c.less {
			expect.Layers = nil
		}
		if got, _ := figures(t, a, b, text, opt); !reflect.DeepEqual(got, expect) {
			t.Errorf("%s, another text: %+v, want %+v", c.name, got, expect)
		}
	}
}

// stopper cancels at a number of reports of progress.
type stopper struct {
	left   int
	cancel func()
	sum    int64
}

func (s *stopper) Stage(string, int64, string) {}
func (s *stopper) Note(string, string)         {}
func (s *stopper) Add(n int64) {
	s.sum += n
	if s.left--; s.left == 0 {
		s.cancel()
	}
}

// Progress adds up to the tokens of the text, a comparison ends soon after it was cancelled, wherever it
// was, and both models can be used afterwards.
func TestCancelled(t *testing.T) {
	m, tokens := openBooks(t)
	a, b := load(t, m), load(t, plant(t, m, map[string]storage.Type{worst: storage.Q4_0}))
	opt := verify.Options{Context: 64, Chunks: 2, BOS: -1}
	for at := 1; ; at++ {
		ctx, cancel := context.WithCancel(context.Background())
		sink := &stopper{left: at, cancel: cancel}
		opt.Progress = sink
		_, err := verify.Run(ctx, a, b, tokens, opt)
		cancel()
		if sink.left > 0 {
			if err != nil || sink.sum != 128 || at < 2*m.Decoder.Layers {
				t.Fatalf("%d of 128 tokens after %d reports: %v", sink.sum, at, err)
			}
			break
		}
		if !errors.Is(err, context.Canceled) && sink.sum < 128 {
			t.Errorf("cancelled at report %d, after %d tokens: %v", at, sink.sum, err)
		}
	}
}

// Models of different depth are compared by what they predict.
func TestOtherDepth(t *testing.T) {
	m, tokens := openBooks(t)
	short := m.Clone()
	d := *m.Decoder
	d.Layers--
	short.Decoder = &d
	got, _ := figures(t, load(t, m), load(t, short), tokens, verify.Options{Context: 64, Chunks: 2, BOS: -1, Recording: &verify.Recording{Most: 1 << 30, Blocks: true}})
	if got.Layers != nil || !(got.KL.Mean > 0.01) || !(got.Perplexity.Package > got.Perplexity.Original) {
		t.Errorf("a model without its last block: %+v %+v, blocks %+v", got.KL, got.Perplexity, got.Layers)
	}
}
