package main

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/peers/synth"
	"github.com/pare-dev/pare/internal/storage"
)

// Percentiles of NumPy's default method, on its own example and on one value.
func TestQuantile(t *testing.T) {
	x := []float64{10, 7, 4, 3, 2, 1}
	for _, c := range []struct{ p, want float64 }{{.5, 3.5}, {.1, 1.5}, {.9, 8.5}, {0, 1}, {1, 10}} {
		if got := quantile(x, c.p); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("quantile %g is %g, want %g", c.p, got, c.want)
		}
	}
	if x[0] != 10 {
		t.Error("the order of the rounds is lost")
	}
	if got := quantile([]float64{4}, .9); got != 4 {
		t.Errorf("of one value it is %g", got)
	}
	if !math.IsNaN(quantile(nil, .5)) {
		t.Error("of nothing it is a number")
	}
}

func TestSlope(t *testing.T) {
	x, y := []float64{0, 1, 2, 3, 4, 5, 6}, []float64{1, 3, 5, 7, 900, 11, 13} // 2x+1 and a disturbance
	if got := slope(x, y); math.Abs(got-2) > 1e-12 {
		t.Errorf("slope %g, want 2", got)
	}
}

// A line is found; what grows with the square lies far above it, what starts slowly does not.
func TestLine(t *testing.T) {
	x := []float64{1e7, 1e8, 1e9}
	if a, b := line(x, []float64{.5 + .02, .5 + .2, .5 + 2}); math.Abs(a-.5) > 1e-9 || math.Abs(b-2e-9) > 1e-18 {
		t.Errorf("%g + %g x, want 0.5 + 2e-9 x", a, b)
	}
	for want, y := range map[string][]float64{"aim": {.52, .7, 2.5}, "missed": {.01, 1, 100}} {
		if got := linear("x", x, y).Bar.Verdict(); got != want {
			t.Errorf("%v: %q, want %q", y, got, want)
		}
	}
}

// Names and addresses stay as they are.
func TestReason(t *testing.T) {
	for s, want := range map[string]string{
		"create '/a/b.c/venv'":            "create 'venv'",
		"/a/b: no file":                   "b: no file",
		"npm @x/y 3, https://h.org/a/b":   "npm @x/y 3, https://h.org/a/b",
		"1 GB/s, float and/or int, a / b": "1 GB/s, float and/or int, a / b",
	} {
		if got := reason(s); got != want {
			t.Errorf("%q becomes %q, want %q", s, got, want)
		}
	}
}

func TestCompare(t *testing.T) {
	more := Row{}.compare([]float64{30, 10, 20}, []float64{10, 10, 10}, true)
	if more.Ratio.Median != 2 || more.Ratio.All[0] != 3 {
		t.Errorf("more is better: %v", more.Ratio)
	}
	less := Row{}.compare([]float64{1, 2, 4}, []float64{4, 4, 4}, false)
	if less.Ratio.Median != 2 || less.Ratio.All[0] != 4 {
		t.Errorf("less is better: %v", less.Ratio)
	}
	if alone := (Row{}).compare([]float64{1}, nil, true).bar(1, 2); alone.Ratio != nil || alone.Bar != nil || alone.Why == "" {
		t.Errorf("without a peer: %+v", alone)
	}
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		bar  Bar
		want string
	}{
		{Bar{Value: 2, Required: 1, Aim: 2}, "aim"},
		{Bar{Value: 1.5, Required: 1, Aim: 2}, "met"},
		{Bar{Value: 0.99, Required: 1, Aim: 2}, "missed"},
		{Bar{Value: 90, Required: 150, Aim: 80, Below: true}, "met"},
		{Bar{Value: 80, Required: 150, Aim: 80, Below: true}, "aim"},
		{Bar{Value: 151, Required: 150, Aim: 80, Below: true}, "missed"},
		{Bar{Value: math.NaN(), Required: 1, Aim: 2}, ""},
	} {
		if got := c.bar.Verdict(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.bar, got, c.want)
		}
	}
	if got := (*Bar)(nil).Verdict(); got != "" {
		t.Errorf("no bar: %q", got)
	}
}

func TestFigure(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 1234.5: "1234", 99.94: "99.9", 1.005: "1.00", 0.012345: "0.0123", math.Inf(1): "–"} {
		if got := figure(v); got != want {
			t.Errorf("%g is written %q, want %q", v, got, want)
		}
	}
}

func TestMarkdown(t *testing.T) {
	r := &Report{Parts: map[string]Part{
		"decode": {Date: "2026-01-02", Commit: "abc-dirty", Rounds: 3, Machine: "A processor", Threads: 2, Peers: []string{"one", "two could not be had (no '/opt/peers/venv')"}, Read: spreadOf([]float64{1e9, 2e9, 3e9}), Rows: []Row{
			Row{Name: "A|B", Unit: "tok/s"}.compare([]float64{30, 10, 20}, []float64{10, 10, 10}, true).bar(1.5, 3),
			Row{Name: "memory", Unit: "MB", Pare: exactly(400)}.below(300, 100),
			failed("lost", &os.PathError{Op: "open", Path: "/var/cache/x.bin", Err: os.ErrNotExist}),
		}},
	}}
	var b strings.Builder
	r.markdown(&b, []part{{name: "decode", title: "Generation"}, {name: "verify", title: "Perplexity"}})
	got := b.String()
	for _, want := range []string{
		"### Generation\n",
		"Of 2 bars 0 reach the aim, 1 what is required, 1 are missed.",
		"A processor, 2 threads; 2026-01-02, commit abc-dirty, 3 rounds; memory gave 2.00 (1.20–2.80) GB/s. Peers: one; two could not be had (no 'venv'). The sources had changes",
		`| A\|B, tok/s | 20.0 (12.0–28.0) | 10.0 (10.0–10.0) | 2.00 (1.20–2.80) | ≥ 1.50× | ≥ 3.00× | met |`,
		"| memory, MB | 400 |  |  | ≤ 300 MB | ≤ 100 MB | **missed** |",
		"| lost |  |  |  |  |  | open x.bin: file does not exist |",
		"### Perplexity\n\nNot measured yet: `make bench ONLY=verify`.",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
}

func TestSplice(t *testing.T) {
	doc := "before\n" + begin + "\nold\n" + end + "\nafter\n"
	got, err := splice(doc, "new")
	if want := "before\n" + begin + "\n\nnew\n\n" + end + "\nafter\n"; err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	again, err := splice(got, "new")
	if err != nil || again != got {
		t.Errorf("the second time it is %q, %v", again, err)
	}
	if _, err := splice("no markers", "new"); err == nil {
		t.Error("a document without markers is written")
	}
}

// Parts that a run leaves out stay; what was saved is read back.
func TestReportIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results.json")
	r, err := loadReport(path)
	if err != nil {
		t.Fatal(err)
	}
	r.Parts["load"] = Part{Name: "load", Rows: []Row{Row{Name: "x"}.compare([]float64{1, 2}, nil, true).bar(1, 2)}}
	if err := r.save(path); err != nil {
		t.Fatal(err)
	}
	if r, err = loadReport(path); err != nil || len(r.Parts["load"].Rows) != 1 || r.Parts["load"].Rows[0].Pare.Median != 1.5 {
		t.Errorf("%+v, %v", r, err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadReport(path); err == nil {
		t.Error("half a file is read")
	}
	if err := os.WriteFile(path, []byte(`{"schema": 1, "peers": ["one"], "parts": {}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadReport(path); err == nil {
		t.Error("figures without the peers of each part are taken")
	}
}

func TestAnswers(t *testing.T) {
	for line, want := range map[string]string{"ok\n": "", "ok 1 2\n": "1 2", " ok x \n": "x"} {
		if got, ok := parseAnswer(line); !ok || got != want {
			t.Errorf("%q: %q, %v", line, got, ok)
		}
	}
	if _, ok := parseAnswer("okay\n"); ok {
		t.Error("another word is taken for ok")
	}
	if x, err := parseNumbers("1.5 2e3", 2); err != nil || !slices.Equal(x, []float64{1.5, 2000}) {
		t.Errorf("%v, %v", x, err)
	}
	for _, bad := range []string{"", "1", "1 x"} {
		if _, err := parseNumbers(bad, 2); err == nil {
			t.Errorf("%q is two numbers", bad)
		}
	}
}

// A program that ends early is quoted; one that answers is understood.
func TestClient(t *testing.T) {
	if _, err := os.Stat("/bin/sh"); err != nil {
		t.Skip("no shell")
	}
	c, err := start(context.Background(), []string{"WORD=env"}, "/bin/sh", "-c", `read a; echo "ok $WORD $a"; read b; echo "first"; echo "why it ends" >&2; exit 3`)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.ask("say %d", 5); err != nil || got != "env say 5" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := c.ask("more"); err == nil || !strings.Contains(err.Error(), "first") {
		t.Errorf("an answer that is not one: %v", err)
	}
	if _, err := c.ask("more"); err == nil || !strings.Contains(err.Error(), "why it ends") {
		t.Errorf("after its end: %v", err)
	}
}

func TestTools(t *testing.T) {
	tl, err := parseTools([]byte("some library talks\n" + `{"llama": {"library": "/x", "version": "L 1"}, "torch": {"why": "no network"}}` + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	about := tl.about([]string{"llama.cpp", "PyTorch"})
	if tl.Llama.Library != "/x" || len(about) != 2 || about[0] != "L 1" || about[1] != "PyTorch could not be had (no network)" {
		t.Errorf("%+v, %q", tl, about)
	}
	if _, err := parseTools([]byte("no json")); err == nil {
		t.Error("anything is taken for the list of tools")
	}
}

// The order in which the sides run changes from round to round, bandwidth is measured before each, and an
// error ends it.
func TestInTurns(t *testing.T) {
	if _, err := os.Stat("/bin/sh"); err != nil {
		t.Skip("no shell")
	}
	c, err := start(context.Background(), nil, "/bin/sh", "-c", "while read a; do echo ok 7; done")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	b := &bench{ctx: context.Background(), limits: c, threads: 1}
	order := ""
	side := func(name string) func() (float64, error) {
		return func() (float64, error) {
			order += name
			return float64(len(order)), nil
		}
	}
	mine, other, reads, err := b.inTurns(0, 3, side("a"), side("b"))
	if err != nil || order != "abbaab" || !slices.Equal(mine, []float64{1, 4, 5}) || !slices.Equal(other, []float64{2, 3, 6}) || !slices.Equal(reads, []float64{7, 7, 7}) {
		t.Errorf("%q %v %v %v %v", order, mine, other, reads, err)
	}
	order = ""
	if mine, other, _, err = b.inTurns(1, 1, side("a"), nil); err != nil || order != "aa" || !slices.Equal(mine, []float64{2}) || other != nil {
		t.Errorf("with a warm round and no peer: %q %v %v %v", order, mine, other, err)
	}
	if _, _, _, err := b.inTurns(1, 1, func() (float64, error) { return 0, os.ErrInvalid }, nil); err == nil {
		t.Error("an error is passed over")
	}
}

// pare's side of the protocol, on a tiny model: texts grow and shrink as they are told.
func TestOurs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.gguf")
	s := synth.Shape{Embed: 64, Layers: 1, FF: 64, Heads: 2, KVHeads: 1, Vocab: 400, Context: 64}
	if err := synth.Write(context.Background(), path, s, storage.F16, 1, 1); err != nil {
		t.Fatal(err)
	}
	var e engine = &ours{ctx: context.Background(), threads: 1}
	defer e.close()
	if err := e.load(path, 32); err != nil {
		t.Fatal(err)
	}
	if s, err := e.prefill(16); err != nil || s <= 0 {
		t.Errorf("prefill: %g, %v", s, err)
	}
	for _, n := range []int{4, 20} {
		if err := e.at(n); err != nil || e.(*ours).s.Pos() != n {
			t.Errorf("at %d: %v", n, err)
		}
	}
	if s, err := e.decode(3); err != nil || len(s) != 3 || e.(*ours).s.Pos() != 23 {
		t.Errorf("decode: %v, %v", s, err)
	}
	if _, err := e.decode(10); err == nil {
		t.Error("more tokens than the context holds were read")
	}
}

// The cache takes two bytes a number, as it does for users and in the peer: the growth of memory over six
// equal batches, in which only the cache grows, leaves no doubt.
func TestOursCache(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.gguf")
	s := synth.Shape{Embed: 256, Layers: 4, FF: 64, Heads: 4, KVHeads: 4, Vocab: 400, Context: 1024}
	if err := synth.Write(context.Background(), path, s, storage.F16, 1, 1); err != nil {
		t.Fatal(err)
	}
	e := &ours{ctx: context.Background(), threads: 1}
	defer e.close()
	if err := e.load(path, s.Context); err != nil {
		t.Fatal(err)
	}
	const batch, from, to = 128, 256, 1024
	var before int64
	for n := batch; n <= to; n += batch {
		if err := e.at(n); err != nil {
			t.Fatal(err)
		}
		if n == from {
			before = e.r.MemoryBytes()
		}
	}
	numbers := float64((to - from) * 2 * s.Layers * s.Embed)
	if each := float64(e.r.MemoryBytes()-before) / numbers; each < .95*cacheBytes || each > 1.2*cacheBytes {
		t.Errorf("a cached number takes %.2f bytes", each)
	}
}

func TestToken(t *testing.T) {
	for _, vocab := range []int{5, 4096, 32000} {
		for i := range 3000 {
			if id := token(vocab, i); id < 0 || int(id) >= vocab {
				t.Fatalf("token %d of %d at %d", id, vocab, i)
			}
		}
	}
	if got := token(32000, 1); got != 7932+259 {
		t.Errorf("token 1 is %d", got)
	}
}

// Two files with known differences: equal, and one number that is off by 3 in a tensor of 4096.
func TestFidelity(t *testing.T) {
	s := synth.Shape{Embed: 64, Layers: 1, FF: 64, Heads: 2, KVHeads: 1, Vocab: 300, Context: 32}
	dir := t.TempDir()
	write := func(name string) string {
		path := filepath.Join(dir, name)
		if err := synth.Write(context.Background(), path, s, storage.F32, 1, 1); err != nil {
			t.Fatal(err)
		}
		return path
	}
	source, same, other := write("a.gguf"), write("b.gguf"), write("c.gguf")
	f, err := compareFiles(context.Background(), 1, source, same, other)
	if err != nil || !f.same || f.tensors != 12 {
		t.Fatalf("%+v, %v", f, err)
	}
	g, err := openGGUF(other)
	if err != nil {
		t.Fatal(err)
	}
	at, _ := g.Tensor("blk.0.ffn_up.weight")
	x, err := numbersOf(context.Background(), 1, g, at.Name, 0, 64)
	if err != nil {
		t.Fatal(err)
	}
	g.Close()
	b, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := storage.MustLookup(storage.F32).Encode(b[at.Offset:at.Offset+4], []float32{x[0] + 3}, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err = compareFiles(context.Background(), 1, source, same, other)
	if err != nil || f.same || f.differ != 1 || f.mine != 0 || math.Abs(f.other-3.0/64) > 1e-7 {
		t.Errorf("%+v, %v; want an error of 3/sqrt(4096)", f, err)
	}
	if n, err := readPerToken(source); err != nil || n != int64(4*(300*64+2*64*64+2*32*64+3*64*64+3*64)) {
		t.Errorf("%d bytes a token, %v", n, err)
	}
}
