package distill

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/internal/storage"
)

// Options of a training.
type Options struct {
	Loss    Loss
	Tokens  int64   // to learn from, counted as often as they are read
	Batch   int     // sequences a step; 0: 16
	Micro   int     // sequences at once; gradients of the others of a step are added; 0: some 2048 tokens
	Rate    float64 // of learning, at its highest; 0: 1e-3
	WarmUp  float64 // share of the steps in which the rate rises from 0; 0: 0.03
	Least   float64 // share of the rate that is left at the end of its half cosine; 0: 0.1
	Decay   float64 // of weights
	Clip    float64 // longest gradient; 0: 1
	Seed    uint64  // of the order of sequences
	Threads int

	Recompute bool // blocks do not remember their activations and compute them again on the way back
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
	text             Text
	order            []int
	epoch, at        int
	steps, step      int
	tokens           int64 // learned from so far
	dx               []float32
}

// NewTrainer prepares the training of parameters that train chooses.
func NewTrainer(student, teacher *Net[float32], text Text, train func(p *Param[float32]) bool, o Options) (*Trainer, error) {
	if err := o.Loss.Check(); err != nil {
		return nil, err
	}
	if err := text.check(); err != nil {
		return nil, err
	}
	o, err := Footprint{}.Fit(o, text.longest(), 0)
	if err != nil {
		return nil, err
	}
	if teacher != nil && teacher.head.Rows != student.head.Rows {
		return nil, fault.As(fault.ErrMisuse, fmt.Errorf("the teacher has a vocabulary of %d tokens, the student of %d", teacher.head.Rows, student.head.Rows))
	}
	t := &Trainer{
		o: o, student: student, teacher: teacher, text: text, epoch: -1,
		masks: map[*Param[float32]][]bool{}, stored: map[*Param[float32]]*storage.Info{},
		opt: AdamW{Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, Decay: o.Decay},
	}
	for _, p := range student.params {
		if train(p) {
			if p.W == nil {
				return nil, fmt.Errorf("%s was loaded to stay as it is", p.Name)
			}
			p.Grad = make([]float32, len(p.W))
			t.trained = append(t.trained, p)
		}
	}
	if len(t.trained) == 0 {
		return nil, fault.As(fault.ErrMisuse, errors.New("nothing is trained"))
	}
	if teacher != nil {
		teacher.forwardOnly = true
	}
	perStep := int64(o.Batch) * text.Tokens() / int64(len(text.IDs))
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
	t.order = rand.New(rand.NewPCG(t.o.Seed, uint64(t.epoch))).Perm(len(t.text.IDs)) //nolint:gosec // not a secret
}

// batch is the next sequences, each of which comes once before any comes again; where they differ in
// length, in order of it, so that those that are gone through together need little filling up.
func (t *Trainer) batch() []int {
	b := make([]int, 0, t.o.Batch)
	for len(b) < t.o.Batch {
		if t.epoch < 0 || t.at == len(t.text.IDs) {
			t.epoch, t.at = t.epoch+1, 0
			t.shuffle()
		}
		b = append(b, t.order[t.at])
		t.at++
	}
	slices.SortStableFunc(b, func(i, j int) int { return len(t.text.IDs[i]) - len(t.text.IDs[j]) })
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

// Run takes the steps that are left. Where the training stands is kept in a file, from which a later call
// goes on to the same bits; each is called after every step, those before an interruption too.
func (t *Trainer) Run(ctx context.Context, state string, tell progress.Sink, each func(Point)) error {
	curve, err := t.Resume(state)
	if err != nil {
		return err
	}
	tell.Stage("distill", int64(t.steps)*int64(t.o.Batch)*t.text.Tokens()/int64(len(t.text.IDs)), "tokens")
	read := int64(0)
	note := func(p Point) {
		tell.Add(p.Tokens - read)
		read = p.Tokens
		if each != nil {
			each(p)
		}
	}
	for _, p := range curve {
		note(p)
	}
	saved := time.Now()
	for !t.Done() {
		p, err := t.Step(ctx)
		if err != nil {
			if ctx.Err() != nil && len(curve) > 0 { // stopped in the middle of a step, which left the weights alone
				return errors.Join(ctx.Err(), t.Save(state, curve))
			}
			return err
		}
		curve = append(curve, p)
		note(p)
		if time.Since(saved) > saveEvery {
			if err := t.Save(state, curve); err != nil {
				return err
			}
			saved = time.Now()
		}
	}
	return nil
}

// saveEvery is the time after which a training is saved again.
const saveEvery = 30 * time.Second

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
	weight, read := t.weigh(batch)
	var sum Sums
	for len(batch) > 0 {
		now := t.text.pick(batch[:min(t.o.Micro, len(batch))])
		batch = batch[len(now.IDs):]
		s, err := t.gradients(ctx, now, weight)
		if err != nil {
			return Point{}, err
		}
		sum.Tokens, sum.Next = sum.Tokens+s.Tokens, sum.Next+s.Next
		sum.Divergence, sum.CrossEntropy = sum.Divergence+s.Divergence, sum.CrossEntropy+s.CrossEntropy
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
	t.tokens += read
	p := Point{
		Step: t.step, Tokens: t.tokens, Rate: rate, Norm: size,
		Divergence: sum.Divergence / float64(max(sum.Tokens, 1)), CrossEntropy: sum.CrossEntropy / float64(max(sum.Next, 1)),
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

// weigh is what each token that counts weighs in the mean over a batch, and how many tokens are read.
func (t *Trainer) weigh(batch []int) (weight float64, read int64) {
	counts := 0
	for _, i := range batch {
		read += int64(len(t.text.IDs[i]))
		counts += t.text.counts(i)
		if t.teacher != nil && t.text.Learn == nil {
			counts++ // the last token of a sequence has no next one, and a teacher's opinion of it
		}
	}
	return 1 / float64(max(counts, 1)), read
}

// gradients adds those of some sequences.
func (t *Trainer) gradients(ctx context.Context, now Text, weight float64) (s Sums, err error) {
	x, err := t.student.Forward(ctx, now.IDs, !t.o.Recompute)
	if err != nil {
		return s, err
	}
	var tx kernels.Matrix
	if t.teacher != nil {
		if tx, err = t.teacher.Forward(ctx, now.IDs, false); err != nil {
			return s, err
		}
	}
	dx := kernels.View(need(&t.dx, x.Rows*x.Cols), x.Rows, x.Cols)
	if s, err = t.student.Score(ctx, t.o.Loss, now, x, dx, t.teacher, tx, weight); err != nil {
		return s, err
	}
	return s, t.student.Backward(ctx, now.IDs, dx, nil)
}
