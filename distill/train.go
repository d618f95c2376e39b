package distill

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/storage"
)

// Options of a training.
type Options struct {
	Loss    Loss
	Tokens  int64   // to learn from, counted as often as they are read
	Batch   int     // sequences a step; 0: 16
	Micro   int     // sequences at once; gradients of the others of a step are added; 0: as memory allows
	Rate    float64 // of learning, at its highest; 0: 1e-3
	WarmUp  float64 // share of the steps in which the rate rises from 0; 0: 0.03
	Least   float64 // share of the rate that is left at the end of its half cosine; 0: 0.1
	Decay   float64 // of weights
	Clip    float64 // longest gradient; 0: 1
	Seed    uint64  // of the order of sequences
	Memory  int64   // bytes for activations; 0: no limit. Blocks that do not fit compute theirs again
	Threads int
}

func (o Options) defaults() Options {
	set := func(x *float64, v float64) {
		if *x == 0 {
			*x = v
		}
	}
	if o.Batch == 0 {
		o.Batch = 16
	}
	set(&o.Rate, 1e-3)
	set(&o.WarmUp, 0.03)
	set(&o.Least, 0.1)
	set(&o.Clip, 1)
	return o
}

// Point is where a training stands after a step.
type Point struct {
	Step         int     `json:"step"`
	Tokens       int64   `json:"tokens"`
	Loss         float64 `json:"loss"` // nats a token, as it is weighed
	Divergence   float64 `json:"divergence"`
	CrossEntropy float64 `json:"cross_entropy"`
	Rate         float64 `json:"rate"`
	Norm         float64 `json:"gradient_norm"`
	Seconds      float64 `json:"seconds"`
}

// Trainer makes a student learn.
type Trainer struct {
	o                Options
	student, teacher *Net[float32] // teacher may be nil: the text alone
	trained          []*Param[float32]
	masks            map[*Param[float32]][]bool
	stored           map[*Param[float32]]*storage.Info
	opt              AdamW
	seqs             [][]int32
	order            []int
	epoch, at        int
	steps, step      int
	dx               []float32
}

// NewTrainer prepares the training of parameters that train chooses. Sequences are of one length.
func NewTrainer(student, teacher *Net[float32], seqs [][]int32, train func(p *Param[float32]) bool, o Options) (*Trainer, error) {
	if err := o.Loss.Check(); err != nil {
		return nil, err
	}
	o = o.defaults()
	if len(seqs) == 0 {
		return nil, fault.As(fault.ErrMisuse, errors.New("no text to learn from"))
	}
	if teacher != nil && teacher.head.Rows != student.head.Rows {
		return nil, fault.As(fault.ErrMisuse, fmt.Errorf("the teacher has a vocabulary of %d tokens, the student of %d", teacher.head.Rows, student.head.Rows))
	}
	t := &Trainer{
		o: o, student: student, teacher: teacher, seqs: seqs, epoch: -1,
		masks: map[*Param[float32]][]bool{}, stored: map[*Param[float32]]*storage.Info{},
		opt: AdamW{Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, Decay: o.Decay},
	}
	for _, p := range student.params {
		if train(p) {
			p.Grad = make([]float32, len(p.W))
			t.trained = append(t.trained, p)
		}
	}
	if len(t.trained) == 0 {
		return nil, fault.As(fault.ErrMisuse, errors.New("nothing is trained"))
	}
	perStep := int64(o.Batch) * int64(len(seqs[0]))
	t.steps = int(max(1, (o.Tokens+perStep-1)/perStep))
	return t, nil
}

// KeepZeros makes the weights of a parameter that are zero stay zero.
func (t *Trainer) KeepZeros(p *Param[float32]) {
	mask := make([]bool, len(p.W))
	any := false
	for i, v := range p.W {
		mask[i] = v == 0
		any = any || mask[i]
	}
	if any {
		t.masks[p] = mask
	}
}

// StoreAs makes products use a parameter as a stored type will give it back, while gradients go to the
// weights behind it (the straight-through estimator, arXiv 1308.3432).
func (t *Trainer) StoreAs(p *Param[float32], info *storage.Info) { t.stored[p] = info }

// Done says that all steps were taken.
func (t *Trainer) Done() bool { return t.step >= t.steps }

// Trained lists the parameters that learn.
func (t *Trainer) Trained() []*Param[float32] { return t.trained }

// Steps is the number of steps that the training takes.
func (t *Trainer) Steps() int { return t.steps }

// rate is the rate of learning of a step, counted from 0.
func (t *Trainer) rate(step int) float64 {
	warm := max(1, int(t.o.WarmUp*float64(t.steps)))
	if step < warm {
		return t.o.Rate * float64(step+1) / float64(warm)
	}
	x := float64(step-warm) / float64(max(1, t.steps-warm))
	return t.o.Rate * (t.o.Least + (1-t.o.Least)*(1+math.Cos(math.Pi*x))/2)
}

// shuffle makes the order of an epoch, which depends on the seed and its number alone.
func (t *Trainer) shuffle() {
	t.order = rand.New(rand.NewPCG(t.o.Seed, uint64(t.epoch))).Perm(len(t.seqs)) //nolint:gosec // not a secret
}

// batch is the next sequences, each of which comes once before any comes again.
func (t *Trainer) batch() [][]int32 {
	b := make([][]int32, 0, t.o.Batch)
	for len(b) < t.o.Batch {
		if t.epoch < 0 || t.at == len(t.seqs) {
			t.epoch, t.at = t.epoch+1, 0
			t.shuffle()
		}
		b = append(b, t.seqs[t.order[t.at]])
		t.at++
	}
	return b
}

// quantize brings the weights that products use up to date.
func (t *Trainer) quantize(ctx context.Context) error {
	for _, p := range t.trained {
		info := t.stored[p]
		if info == nil {
			continue
		}
		if p.used == nil {
			p.used = make([]float32, len(p.W))
		}
		rowBytes, err := info.Type.RowBytes(p.Cols)
		if err != nil {
			return err
		}
		err = par.Range(ctx, t.o.Threads, p.Rows, 16, func(_, lo, hi int) error {
			raw := make([]byte, int64(hi-lo)*rowBytes)
			if err := info.Encode(raw, p.W[lo*p.Cols:hi*p.Cols], nil); err != nil {
				return err
			}
			info.Decode(p.used[lo*p.Cols:hi*p.Cols], raw)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// micro is how many sequences are gone through at once, and whether blocks remember.
func (t *Trainer) micro() (seqs int, keep bool) {
	length := len(t.seqs[0])
	d := t.student.d
	perToken := int64(4 * (4*d.Hidden + 2*d.QDim() + 2*d.KVDim() + 4*d.FFN))
	if d.QKNorm {
		perToken += int64(4 * (d.QDim() + d.KVDim()))
	}
	all := perToken * int64(d.Layers) * int64(length)
	seqs = t.o.Micro
	if seqs == 0 {
		seqs = max(1, min(t.o.Batch, 4096/length))
	}
	return seqs, t.o.Memory == 0 || all*int64(seqs) <= t.o.Memory
}

// Step learns from the next batch.
func (t *Trainer) Step(ctx context.Context) (Point, error) {
	start := time.Now()
	if err := t.quantize(ctx); err != nil {
		return Point{}, err
	}
	t.student.ZeroGrad()
	epoch, at := t.epoch, t.at
	p, err := t.learn(ctx, start)
	if err != nil { // the step was not taken
		t.epoch, t.at = epoch, at
		if epoch >= 0 {
			t.shuffle()
		}
	}
	return p, err
}

// learn takes a step.
func (t *Trainer) learn(ctx context.Context, start time.Time) (Point, error) {
	batch := t.batch()
	micro, keep := t.micro()
	length := len(batch[0])
	weight := 1 / float64(len(batch)*length)
	var sum Sums
	for len(batch) > 0 {
		now := batch[:min(micro, len(batch))]
		batch = batch[len(now):]
		x, err := t.student.Forward(ctx, now, keep)
		if err != nil {
			return Point{}, err
		}
		var tx kernels.Matrix
		if t.teacher != nil {
			if tx, err = t.teacher.Forward(ctx, now, false); err != nil {
				return Point{}, err
			}
		}
		dx := kernels.View(need(&t.dx, x.Rows*x.Cols), x.Rows, x.Cols)
		s, err := t.student.Score(ctx, t.o.Loss, now, x, dx, t.teacher, tx, weight)
		if err != nil {
			return Point{}, err
		}
		sum.Tokens, sum.Next = sum.Tokens+s.Tokens, sum.Next+s.Next
		sum.Divergence, sum.CrossEntropy = sum.Divergence+s.Divergence, sum.CrossEntropy+s.CrossEntropy
		if err := t.student.Backward(ctx, now, dx, nil); err != nil {
			return Point{}, err
		}
	}
	size, err := norm(ctx, t.o.Threads, t.trained)
	if err != nil {
		return Point{}, err
	}
	if math.IsNaN(size) || math.IsInf(size, 0) {
		return Point{}, &fault.Error{Op: "distill", Err: fmt.Errorf("the gradient of step %d is %v: %w", t.step+1, size, fault.ErrNotFinite), Hint: "give a lower --rate"}
	}
	scale := 1.0
	if size > t.o.Clip {
		scale = t.o.Clip / size
	}
	rate := t.rate(t.step)
	if err := t.opt.Step(context.WithoutCancel(ctx), t.o.Threads, t.trained, t.masks, rate, scale); err != nil {
		return Point{}, err
	}
	t.step++
	p := Point{
		Step: t.step, Tokens: int64(t.step) * int64(t.o.Batch) * int64(length), Rate: rate, Norm: size,
		Divergence: sum.Divergence / float64(sum.Tokens), CrossEntropy: sum.CrossEntropy / float64(max(sum.Next, 1)),
		Seconds: time.Since(start).Seconds(),
	}
	tau, mix := t.o.Loss.Temperature, t.o.Loss.CrossEntropy
	if tau == 0 {
		tau = 1
	}
	if t.teacher == nil {
		mix = 1
	}
	p.Loss = (1-mix)*tau*tau*p.Divergence + mix*p.CrossEntropy
	return p, nil
}
