package report

import (
	"fmt"
	"html/template"

	"gonum.org/v1/plot/plotter"

	"github.com/pare-dev/pare/distill"
	"github.com/pare-dev/pare/internal/human"
)

// Distill is the record of a training.
type Distill struct {
	Teacher string          `json:"teacher"`
	Source  Text            `json:"text"`
	Tokens  int64           `json:"tokens"`  // read, counted as often as they were
	Seconds float64         `json:"seconds"` // of all steps, those before an interruption too
	Curve   []distill.Point `json:"curve"`   // some hundred steps, the last one among them
	every   int
}

// curvePoints is the number of points above which every other one is left out.
const curvePoints = 512

// Add takes the next step.
func (d *Distill) Add(p distill.Point) {
	d.every = max(d.every, 1)
	d.Tokens, d.Seconds = p.Tokens, d.Seconds+p.Seconds
	if n := len(d.Curve); n > 0 && (d.Curve[n-1].Step-1)%d.every != 0 {
		d.Curve = d.Curve[:n-1] // it stood there as the last
	}
	d.Curve = append(d.Curve, p)
	if len(d.Curve) <= curvePoints {
		return
	}
	d.every *= 2
	kept := d.Curve[:0]
	for i, q := range d.Curve {
		if (q.Step-1)%d.every == 0 || i == len(d.Curve)-1 {
			kept = append(kept, q)
		}
	}
	d.Curve = kept
}

// Text says in a line what was learned.
func (d *Distill) Text() string {
	if len(d.Curve) == 0 {
		return ""
	}
	first, last := d.mean(0), d.mean(len(d.Curve)-curveMean)
	what, a, b := "KL divergence to the teacher", first.Divergence, last.Divergence
	if a == 0 && b == 0 {
		what, a, b = "cross-entropy", first.CrossEntropy, last.CrossEntropy
	}
	return fmt.Sprintf("%s tokens in %s: %s %s → %s nats per token", human.Thousands(d.Tokens), seconds(d.Seconds), what, human.Float(a), human.Float(b))
}

// curveMean is the number of points that a mean at an end of the curve takes.
const curveMean = 8

// mean is that of some points from one on.
func (d *Distill) mean(from int) (m distill.Point) {
	from = max(0, min(from, len(d.Curve)-1))
	part := d.Curve[from:min(from+curveMean, len(d.Curve))]
	for _, p := range part {
		m.Divergence += p.Divergence / float64(len(part))
		m.CrossEntropy += p.CrossEntropy / float64(len(part))
	}
	return m
}

// chart shows the loss over the tokens that were read.
func (d *Distill) chart() template.HTML {
	if d == nil || len(d.Curve) < 2 {
		return ""
	}
	xy := make(plotter.XYs, len(d.Curve))
	top := 0.0
	for i, p := range d.Curve {
		xy[i] = plotter.XY{X: float64(p.Tokens) / 1e3, Y: p.Loss}
		top = max(top, p.Loss)
	}
	p := newPlot("What was learned", "tokens read, thousands", "loss, nats per token")
	p.Add(grid())
	line, err := plotter.NewLine(xy)
	if err != nil {
		return "" // not finite: the training would have failed
	}
	line.Color, line.Width = series[0], 1.5
	p.Add(line)
	p.X.Min, p.Y.Min, p.X.Max, p.Y.Max = 0, 0, xy[len(xy)-1].X, top*1.1
	p.X.Tick.Marker, p.Y.Tick.Marker = ticks{}, ticks{}
	return inline(p, "line chart of the loss over the tokens that were read")
}
