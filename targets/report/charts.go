package report

import (
	"bytes"
	"cmp"
	"fmt"
	"html/template"
	"image/color"
	"math"
	"regexp"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/runner/verify"
)

// Charts are drawn by gonum/plot as SVG. A colour is drawn as a marker that becomes a CSS variable
// afterwards, so that one picture serves a light and a dark page; series also differ in shape or
// in position, because not everybody tells colours apart.
var (
	inkColor  = color.RGBA{R: 1, A: 255}
	gridColor = color.RGBA{R: 2, A: 255}
	series    = []color.RGBA{{R: 11, A: 255}, {R: 12, A: 255}, {R: 13, A: 255}, {R: 14, A: 255}, {R: 15, A: 255}, {R: 16, A: 255}}
	shapes    = []draw.GlyphDrawer{draw.CircleGlyph{}, draw.BoxGlyph{}, draw.PyramidGlyph{}, draw.RingGlyph{}, draw.SquareGlyph{}, draw.TriangleGlyph{}}
)

// colorVars maps the markers to the variables of style.css.
var colorVars = func() *strings.Replacer {
	pairs := []string{"#010000", "var(--ink)", "#020000", "var(--grid)"}
	for i, c := range series {
		pairs = append(pairs, fmt.Sprintf("#%02X0000", c.R), fmt.Sprintf("var(--s%d)", i+1))
	}
	return strings.NewReplacer(pairs...)
}()

const chartWidth, chartHeight = 360, 230 // points: readable one to one on a phone

// newPlot is an empty chart in the house style.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	sans := func(s *text.Style, size font.Length) {
		s.Color, s.Font = inkColor, font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
	}
	p.BackgroundColor = nil // transparent: the page shows through. The writer of SVG divides by an alpha of 0
	p.Title.Text, p.Title.Padding = title, 8
	sans(&p.Title.TextStyle, 12)
	p.X.Label.Text, p.Y.Label.Text = x, y
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		sans(&a.Label.TextStyle, 10)
		sans(&a.Tick.Label, 9)
		a.Label.Padding = 3
		a.LineStyle.Color, a.Tick.LineStyle.Color = gridColor, gridColor
	}
	sans(&p.Legend.TextStyle, 9)
	p.Legend.Padding = 2
	p.Legend.Top = true
	p.Legend.ThumbnailWidth = 12
	return p
}

var (
	svgHead  = regexp.MustCompile(`(?s)^.*?<svg [^>]*?viewBox="([^"]*)"[^>]*>`)
	fontText = regexp.MustCompile(`font-family:[^;"]*;?|font-variant:[^;"]*;?|font-weight:normal;?|font-style:normal;?`)
)

// inline draws a chart as an element that scales with its column. label is read out by screen
// readers.
func inline(p *plot.Plot, label string) template.HTML {
	c := vgsvg.NewWith(vgsvg.UseWH(chartWidth, chartHeight))
	p.Draw(draw.New(c))
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		panic("report: writing to memory: " + err.Error())
	}
	s := svgHead.ReplaceAllString(b.String(), `<svg viewBox="$1" role="img" aria-label="`+template.HTMLEscapeString(label)+`">`)
	s = colorVars.Replace(fontText.ReplaceAllString(s, ""))
	return template.HTML(s) //nolint:gosec // our own drawing; names in it were escaped by the SVG writer
}

// scatterChart shows size against KL for every target; nil when fewer than two have both.
func (r *Report) scatterChart() template.HTML {
	p := newPlot("Size against divergence: down and left is better", "package, MiB", "mean KL divergence, nats per token")
	p.Add(grid()) // below the names, which are drawn with a rim in the page's colour
	var top, right float64
	var spots []spot
	n := 0
	for i := range r.Targets {
		t := &r.Targets[i]
		if t.KL == nil || t.Bytes == 0 {
			continue
		}
		x, y := float64(t.Bytes)/(1<<20), t.KL.Mean
		n++
		top, right = max(top, y), max(right, x)
		if t.KL.Upper95.Known() {
			top = max(top, float64(t.KL.Upper95))
		}
		xy := plotter.XYs{{X: x, Y: y}}
		dot, err := plotter.NewScatter(xy)
		if err != nil {
			continue // not finite: the table says so
		}
		dot.GlyphStyle = draw.GlyphStyle{Color: series[i%len(series)], Radius: 4.5, Shape: shapes[i%len(shapes)]}
		if half := 1.96 * float64(t.KL.SE); half > 0 {
			if bars, err := plotter.NewYErrorBars(struct {
				plotter.XYs
				plotter.YErrors
			}{xy, plotter.YErrors{{Low: half, High: half}}}); err == nil {
				bars.Color, bars.CapWidth = series[i%len(series)], 5
				p.Add(bars)
			}
		}
		p.Add(dot)
		spots = append(spots, spot{x, y, t.Name + " " + TypeName(t)})
	}
	if n == 0 {
		return ""
	}
	p.X.Min, p.Y.Min = 0, 0
	p.X.Max, p.Y.Max = right*1.2, top*1.3
	p.Add(nameSpots(spots, p)...)
	p.X.Tick.Marker, p.Y.Tick.Marker = ticks{}, ticks{}
	return inline(p, "scatter chart of package size against KL divergence")
}

// spot is a point of the scatter chart with its name.
type spot struct {
	x, y float64
	name string
}

// nameSpots puts each name beside its point, on the side with more room, and moves names apart that
// would lie on each other.
func nameSpots(spots []spot, p *plot.Plot) (names []plot.Plotter) {
	slices.SortFunc(spots, func(a, b spot) int { return cmp.Compare(a.y, b.y) })
	apart := (p.Y.Max - p.Y.Min) / 12 // a line of text
	last := map[bool]float64{false: math.Inf(-1), true: math.Inf(-1)}
	for _, s := range spots {
		left := s.x > (p.X.Min+p.X.Max)/2
		y := max(s.y, last[left]+apart)
		last[left] = y
		l, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{{X: s.x, Y: y}}, Labels: []string{s.name}})
		if err != nil {
			continue // not finite: the table says so
		}
		l.TextStyle[0] = p.Legend.TextStyle
		l.TextStyle[0].YAlign, l.TextStyle[0].XAlign, l.Offset = draw.YCenter, draw.XLeft, vg.Point{X: 9}
		if left {
			l.TextStyle[0].XAlign, l.Offset = draw.XRight, vg.Point{X: -11}
		}
		names = append(names, l)
	}
	return names
}

// grid draws horizontal lines only: values are read off the y axis.
func grid() *plotter.Grid {
	g := plotter.NewGrid()
	g.Vertical.Color = nil
	g.Horizontal.Color, g.Horizontal.Width = gridColor, 0.5
	return g
}

// layerChart shows what every block adds, as the error of the residual stream relative to its
// size.
func (t *Target) layerChart() template.HTML {
	if len(t.Layers) == 0 {
		return ""
	}
	p := newPlot("Error after each block", "block", "error / signal, %")
	values := make(plotter.Values, len(t.Layers))
	names := make([]string, len(t.Layers))
	every := (len(t.Layers) + 11) / 12
	for i, l := range t.Layers {
		values[i] = 100 * math.Pow(10, -l.SQNR/20)
		if i%every == 0 {
			names[i] = fmt.Sprint(l.Block)
		}
	}
	bars, err := plotter.NewBarChart(values, vg.Length(max(2, min(26, 250/float64(len(values))))))
	if err != nil {
		return ""
	}
	bars.Color, bars.LineStyle.Width = series[0], 0
	p.Add(grid(), bars)
	p.NominalX(names...)
	p.X.Min, p.X.Max, p.Y.Min = -0.6, float64(len(values))-0.4, 0
	p.Y.Max *= 1.05
	p.Y.Tick.Marker = ticks{}
	return inline(p, "bars of the relative error after each block")
}

// klChart shows how the divergence spreads over tokens, on a logarithmic axis, with percentiles.
func (t *Target) klChart() template.HTML {
	if t.KL == nil || len(t.KL.Histogram.Counts) == 0 {
		return ""
	}
	h := t.KL.Histogram
	total := 0
	for _, c := range h.Counts {
		total += c
	}
	if total == 0 {
		return ""
	}
	p := newPlot("Divergence per token", "KL divergence, nats (logarithmic)", "tokens, %")
	lo, hi := trim(h)
	var highest float64
	for i := lo; i < hi; i++ {
		share := 100 * float64(h.Counts[i]) / float64(total)
		highest = max(highest, share)
		x0, x1 := exponent(h.Edges[i]), exponent(h.Edges[i+1])
		box, err := plotter.NewPolygon(plotter.XYs{{X: x0, Y: 0}, {X: x0, Y: share}, {X: x1, Y: share}, {X: x1, Y: 0}})
		if err != nil {
			continue
		}
		box.Color, box.LineStyle.Width = series[0], 0
		p.Add(box)
	}
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = exponent(h.Edges[lo]), exponent(h.Edges[hi])+0.25, 0, highest*1.32
	for i, q := range []struct {
		name string
		at   float64
	}{{"median", t.KL.Median}, {"90 %", t.KL.P90}, {"99 %", t.KL.P99}} {
		x := exponent(q.at)
		if q.at <= 0 || x < p.X.Min || x > p.X.Max {
			continue
		}
		line, err := plotter.NewLine(plotter.XYs{{X: x, Y: 0}, {X: x, Y: highest * (1.20 - 0.08*float64(i))}})
		if err != nil {
			continue
		}
		line.Color, line.Width, line.Dashes = series[1], 1.2, []vg.Length{3, 2}
		p.Add(line)
		if l, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{{X: x, Y: highest * (1.21 - 0.08*float64(i))}}, Labels: []string{q.name}}); err == nil {
			l.TextStyle[0] = p.Legend.TextStyle
			l.TextStyle[0].XAlign, l.TextStyle[0].YAlign = draw.XLeft, draw.YCenter
			l.Offset = vg.Point{X: 3, Y: -3}
			p.Add(l)
		}
	}
	p.X.Tick.Marker, p.Y.Tick.Marker = decades{}, ticks{}
	return inline(p, "histogram of the KL divergence per token with median, 90th and 99th percentile")
}

// trim leaves out empty bins at both ends.
func trim(h verify.Histogram) (lo, hi int) {
	hi = min(len(h.Counts), len(h.Edges)-1)
	for lo < hi-1 && h.Counts[lo] == 0 {
		lo++
	}
	for hi > lo+1 && h.Counts[hi-1] == 0 {
		hi--
	}
	return lo, hi
}

// exponent is log10, with a floor for the open first bin.
func exponent(v float64) float64 { return math.Log10(max(v, 1e-9)) }

// latencyChart shows the time of one token, original beside package.
func (t *Target) latencyChart() template.HTML {
	if t.Bench == nil || len(t.Bench.Models) < 2 {
		return ""
	}
	p := newPlot("Time per token, one at a time", "percentile", "milliseconds")
	p.Add(grid())
	for i, m := range []struct {
		name string
		of   BenchModel
	}{{"original", t.Bench.Models[1]}, {"package", t.Bench.Models[0]}} {
		v := plotter.Values{1000 * m.of.TokenS.P50, 1000 * m.of.TokenS.P90, 1000 * m.of.TokenS.P99}
		bars, err := plotter.NewBarChart(v, 26)
		if err != nil {
			return ""
		}
		bars.Color, bars.LineStyle.Width = series[1-i], 0
		bars.Offset = vg.Length(float64(2*i-1) * 14)
		p.Add(bars)
		p.Legend.Add(m.name, bars)
	}
	p.Legend.Left = true
	p.NominalX("50", "90", "99")
	p.X.Min, p.X.Max, p.Y.Min = -0.6, 2.6, 0
	p.Y.Max *= 1.35 // room for the legend
	p.Y.Tick.Marker = ticks{}
	return inline(p, "bars of the time per token at three percentiles")
}

// ticks are about five round numbers, spelled without needless digits.
type ticks struct{}

// Ticks implements plot.Ticker.
func (ticks) Ticks(lo, hi float64) []plot.Tick {
	var marks []plot.Tick
	if !(hi > lo) {
		return marks
	}
	step := math.Pow(10, math.Floor(math.Log10((hi-lo)/4)))
	for _, m := range []float64{2, 5, 10} {
		if (hi-lo)/step > 5.5 {
			step = math.Pow(10, math.Floor(math.Log10((hi-lo)/4))) * m
		}
	}
	for v := math.Ceil(lo/step) * step; v <= hi*(1+1e-9); v += step {
		label := "0"
		if math.Abs(v) > step/2 {
			label = human.Float(v)
			if a := math.Abs(v); a >= 100 && a < 1e6 {
				label = fmt.Sprintf("%.0f", v)
			}
		}
		marks = append(marks, plot.Tick{Value: v, Label: label})
	}
	return marks
}

// decades marks the powers of ten on an axis of exponents.
type decades struct{}

// Ticks implements plot.Ticker.
func (decades) Ticks(lo, hi float64) []plot.Tick {
	var marks []plot.Tick
	for e := math.Ceil(lo); e <= math.Floor(hi); e++ {
		label := fmt.Sprintf("1e%.0f", e)
		if e > -4 && e < 3 {
			label = fmt.Sprintf("%g", math.Pow(10, e))
		}
		marks = append(marks, plot.Tick{Value: e, Label: label})
	}
	return marks
}
