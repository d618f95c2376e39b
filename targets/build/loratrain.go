package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pare-dev/pare/distill"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/arch"
	"github.com/pare-dev/pare/lora"
	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// LoraTraining is a training of an adapter on text. What is zero takes its default.
type LoraTraining struct {
	Model   string
	Text    []string // files of text; FILE.jsonl or FILE.jsonl:FIELD hold records
	Chat    string   // format of conversations; empty: that of the model's template
	Rank    int      // 16
	Alpha   float64  // twice the rank
	RSLoRA  bool     // scale by the root of the rank
	Targets []string // names of modules: q_proj; all matrices of the blocks
	Tokens  int      // the whole text once
	Context int      // 256
	Batch   int      // 16
	Rate    float64  // 2e-4
	Seed    uint64
	Out     string
}

// Defaults of a training; the help of pare lora train repeats them.
const (
	defaultLoraRank = 16
	defaultLoraRate = 2e-4
	mostRank        = 1 << 16 // wider than any matrix of a block is useful
)

func (l *LoraTraining) defaults() {
	if l.Rank == 0 {
		l.Rank = defaultLoraRank
	}
	if l.Alpha == 0 {
		l.Alpha = 2 * float64(l.Rank)
	}
	if l.Rate == 0 {
		l.Rate = defaultLoraRate
	}
	if l.Batch == 0 {
		l.Batch = defaultLearnBatch
	}
}

func (l *LoraTraining) check(o Options) error {
	switch {
	case l.Model == "":
		return misuse("lora train", "", "no base is named")
	case l.Out == "":
		return misuse("lora train", "say where the adapter goes: -o DIR", "no output")
	case len(l.Text) == 0:
		return misuse("lora train", "name a text with --text FILE", "no text to learn from")
	case l.Rank < 0 || !positive(l.Alpha) || l.Context < 0 || l.Context == 1 || l.Batch < 0 || l.Tokens < 0 || !positive(l.Rate):
		return misuse("lora train", "", "rank, alpha, context, batch, tokens and rate must be positive, and a context has two tokens or more")
	}
	if l.Batch > mostBatch {
		return misuse("lora train", "", "a batch of %d sequences; at most %d make a step", l.Batch, mostBatch)
	}
	if l.Rank > mostRank {
		return misuse("lora train", "", "a rank of %d; at most %d are taken", l.Rank, mostRank)
	}
	if err := pack.Free(l.Out, o.Force); err != nil {
		return err
	}
	return adapterOnly(l.Out)
}

// adapterOnly refuses to replace a folder that holds more than an adapter.
func adapterOnly(dir string) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &fault.Error{File: dir, Err: fault.As(fault.ErrMisuse, errors.New("this is no folder")), Hint: "name a folder for the adapter"}
	}
	for _, f := range list {
		if !slices.Contains([]string{"adapter_config.json", "adapter_model.safetensors", "README.md"}, f.Name()) {
			return &fault.Error{File: dir, Err: fault.As(fault.ErrMisuse, fmt.Errorf("the folder holds more than an adapter and is not replaced: %s", f.Name())), Hint: "choose another path, or move that away"}
		}
	}
	return nil
}

// TrainLora trains an adapter and writes the folder that PEFT reads. The weights of the base stay as they are
// stored, block types included. An interrupted training goes on to the same bytes.
func TrainLora(ctx context.Context, l LoraTraining, o Options) (rep *report.Report, err error) {
	start := time.Now()
	l.defaults()
	if err := l.check(o); err != nil {
		return nil, err
	}
	if o.Out = filepath.Dir(filepath.Clean(l.Out)); o.Work == "" {
		o.Work = StepWork(l.Out)
	}
	in := &recipe.Recipe{Source: recipe.Source{Model: l.Model}, Verify: recipe.Verify{Off: true}, Bench: recipe.Bench{Off: true}}
	in.Calibration.Seed = l.Seed
	e, err := newEngine(ctx, in, o, true)
	if err != nil {
		return nil, err
	}
	defer e.close()
	defer proc.LimitMemory(o.MaxMemory, 0)()
	if e.tok == nil {
		why := e.notRun
		if why == "" {
			why = "the model has no tokenizer that can be used"
		}
		return nil, &fault.Error{File: l.Model, Op: "lora train", Err: fault.As(fault.ErrMisuse, errors.New(why))}
	}
	if l.Context == 0 {
		l.Context = defaultLearnContext
		if c := e.src.Decoder.Context; c > 0 {
			l.Context = min(l.Context, c)
		}
	}
	modules, err := loraModules(e.src, l.Targets)
	if err != nil {
		return nil, err
	}
	t := &loraTrainer{e: e, l: &l, modules: modules}
	if err := t.prepare(ctx); err != nil {
		return nil, err
	}
	if e.w, err = openWork(e.workDir()); err != nil {
		return nil, err
	}
	done := false
	defer func() { err = errors.Join(err, e.w.close(done && !o.KeepWork)) }()
	if err := t.run(ctx); err != nil {
		return nil, err
	}
	done = true
	e.rep.Verdict, e.rep.Seconds, e.rep.PeakMemoryBytes = report.None, time.Since(start).Seconds(), proc.PeakMemory()
	return e.rep, nil
}

// loraTrainer is a training under way.
type loraTrainer struct {
	e       *engine
	l       *LoraTraining
	modules []loraModule
	text    distill.Text
	read    report.Text
	low     distill.LowRank
	o       distill.Options
}

// loraModule is a matrix that gets a change, as PEFT names it.
type loraModule struct {
	role ir.Role
	leaf string // "q_proj"
	arch *arch.Arch
}

// name is the module's in a block.
func (m loraModule) name(block int) string {
	return strings.TrimSuffix(m.arch.HFName(m.role, block), ".weight")
}

// loraRoles are the matrices that can get a change, in the order of the blocks.
var loraRoles = []ir.Role{ir.RoleAttnQ, ir.RoleAttnK, ir.RoleAttnV, ir.RoleAttnO, ir.RoleMLPGate, ir.RoleMLPUp, ir.RoleMLPDown}

// loraModules finds the matrices of the names; none stand for all.
func loraModules(m *ir.Model, names []string) (list []loraModule, err error) {
	a := arch.ByName(m.Arch)
	if a == nil {
		return nil, &fault.Error{File: m.Path, Op: "lora train", Err: fault.As(fault.ErrMisuse, fmt.Errorf("the architecture %q is not one that can be trained", m.Arch))}
	}
	var leaves []string
	for _, r := range loraRoles {
		x := loraModule{role: r, arch: a}
		name := x.name(0)
		if name == "" {
			continue
		}
		x.leaf = name[strings.LastIndexByte(name, '.')+1:]
		if m.Format == "hf" && m.Find(name+".weight") == nil {
			return nil, &fault.Error{File: m.Path, Op: "lora train", Err: fault.As(fault.ErrMisuse, fmt.Errorf("the folder keeps %s in one tensor with others: an adapter cannot name it", x.leaf)), Hint: "convert the base to GGUF and train on that"}
		}
		leaves = append(leaves, x.leaf)
		if len(names) == 0 || slices.Contains(names, x.leaf) {
			list = append(list, x)
		}
	}
	for _, n := range names {
		if !slices.Contains(leaves, n) {
			hint := "choose among " + strings.Join(leaves, ", ")
			if near := human.Nearest(n, leaves); near != "" {
				hint = fmt.Sprintf("did you mean %s? There are %s", near, strings.Join(leaves, ", "))
			}
			return nil, misuse("lora train", hint, "no module is called %q", n)
		}
	}
	return list, nil
}

// prepare reads the text and finds out whether the training fits in memory.
func (t *loraTrainer) prepare(ctx context.Context) error {
	e, l := t.e, t.l
	if err := t.readText(ctx); err != nil {
		return err
	}
	t.low = distill.LowRank{Rank: l.Rank, Alpha: l.Alpha, RSLoRA: l.RSLoRA, Seed: l.Seed}
	for _, m := range t.modules {
		t.low.Targets = append(t.low.Targets, m.role)
	}
	s := distill.Subject{Student: e.src, Learns: func(*ir.Tensor) bool { return false }, LowRank: &t.low}
	f := s.Footprint(l.Context)
	if err := proc.Afford("lora train", e.overhead()+f.Least(l.Context)*8/7, e.o.MaxMemory, "raise --max-memory, or give shorter sequences with --context"); err != nil {
		return err
	}
	var err error
	t.o, err = f.Fit(distill.Options{
		Tokens: int64(l.Tokens), Batch: l.Batch, Rate: l.Rate, Seed: l.Seed, Threads: e.o.Threads,
	}, l.Context, e.learnMemory(int(t.text.Tokens())))
	return err
}

// run trains, or takes up what was trained, and writes.
func (t *loraTrainer) run(ctx context.Context) error {
	e, l := t.e, t.l
	if err := e.timed("digest", "", func() (bool, error) { return false, e.digests(ctx) }); err != nil {
		return err
	}
	plain := *l
	plain.Out, plain.Text, plain.Model = "", nil, ""
	st, err := e.w.stage("lora", key(e.origins.Model, plain, t.text.Key(), e.o.ISA, t.o.Micro))
	if err != nil {
		return err
	}
	curve := &report.Distill{Teacher: noTeacher, Source: t.read}
	var trained []lora.Trained
	err = e.timed("train", "", func() (bool, error) {
		trained, err = t.train(ctx, st, curve)
		return false, err
	})
	if err != nil {
		return err
	}
	e.rep.Distill = curve
	fresh := lora.Fresh{Base: baseName(l.Model), Rank: l.Rank, Alpha: l.Alpha, RSLoRA: l.RSLoRA}
	for _, m := range t.modules {
		fresh.Leaves = append(fresh.Leaves, m.leaf)
	}
	return e.timed("write", "", func() (bool, error) {
		made := st.path("adapter")
		if err := os.RemoveAll(made); err != nil {
			return false, &fault.Error{File: made, Op: "write", Err: err}
		}
		if err := lora.Write(made, fresh, trained); err != nil {
			return false, err
		}
		n, err := pack.InputBytes(made)
		if err != nil {
			return false, &fault.Error{File: made, Op: "write", Err: err}
		}
		e.rep.Targets = []report.Target{{Name: filepath.Base(filepath.Clean(l.Out)), Package: l.Out, Container: "peft", Verdict: report.None, Bytes: n}}
		return false, replaceFolder(made, l.Out)
	})
}

// train takes the steps and returns the factors.
func (t *loraTrainer) train(ctx context.Context, st *stage, curve *report.Distill) ([]lora.Trained, error) {
	e := t.e
	net, err := distill.Load[float32](ctx, e.src, kernels.For(e.o.ISA), e.o.Threads, t.l.Context, func(*ir.Tensor) bool { return false })
	if err != nil {
		return nil, err
	}
	pairs := net.Attach(t.low)
	learns := map[*distill.Param[float32]]bool{}
	for _, p := range pairs {
		learns[p.A], learns[p.B] = true, true
	}
	tr, err := distill.NewTrainer(net, nil, t.text, func(p *distill.Param[float32]) bool { return learns[p] }, t.o)
	if err != nil {
		return nil, &fault.Error{File: e.src.Path, Op: "lora train", Err: err}
	}
	if err := tr.Run(ctx, st.path("train.state"), e.meter, curve.Add); err != nil {
		return nil, err
	}
	modules := map[ir.Role]loraModule{}
	for _, m := range t.modules {
		modules[m.role] = m
	}
	out := make([]lora.Trained, len(pairs))
	for i, p := range pairs {
		out[i] = lora.Trained{Module: modules[p.Role].name(p.Block), In: p.A.Cols, Out: p.B.Rows, A: p.A.W, B: p.B.W}
	}
	return out, nil
}

// baseName is what the adapter calls its base: the folder's or file's name.
func baseName(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return filepath.Base(path)
}

// replaceFolder moves a finished folder to its place. What is there was found to be an adapter, and goes once the new one
// lies beside it whole.
func replaceFolder(from, to string) error {
	to = filepath.Clean(to)
	failed := func(err error) error { return &fault.Error{File: to, Op: "write", Err: err} }
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil { //nolint:gosec // as mkdir does; the umask narrows it
		return failed(err)
	}
	if err := adapterOnly(to); err != nil {
		return err
	}
	beside, err := os.MkdirTemp(filepath.Dir(to), "."+filepath.Base(to)+".part-*")
	if err != nil {
		return failed(err)
	}
	defer func() { _ = os.RemoveAll(beside) }() // empty once all went well
	whole := filepath.Join(beside, "adapter")
	if os.Rename(from, whole) != nil { // another file system
		if err := os.CopyFS(whole, os.DirFS(from)); err != nil {
			return failed(err)
		}
	}
	if err := os.RemoveAll(to); err != nil {
		return failed(err)
	}
	if err := os.Rename(whole, to); err != nil {
		return failed(err)
	}
	return nil
}
