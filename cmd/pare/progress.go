package main

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/progress"
)

// sink is a progress.Sink that can be told that the work is over.
type sink interface {
	progress.Sink
	stop()
}

// newSink chooses how work is shown: a bar on a terminal, plain lines otherwise.
func (a *app) newSink() sink {
	kind := a.progress.value
	if kind == "auto" {
		kind = "plain"
		if a.errTerminal && a.getenv("TERM") != "dumb" { // which knows no way back on a line
			kind = "bar"
		}
	}
	if a.quiet && kind != "json" {
		kind = "none"
	}
	switch kind {
	case "bar":
		return &barSink{notes: notes{w: a.err, all: a.verbose}, color: a.style(a.err, "1") != "", width: a.width}
	case "plain":
		return &plainSink{notes: notes{w: a.err, all: a.verbose}}
	case "json":
		return &jsonSink{enc: json.NewEncoder(a.err)}
	}
	return silent{}
}

// silent says nothing.
type silent struct{}

func (silent) Stage(string, int64, string) {}
func (silent) Add(int64)                   {}
func (silent) Note(string, string)         {}
func (silent) stop()                       {}

// mostNotes is how many decisions of one stage are shown without -v; the report has all of them.
const mostNotes = 6

// notes prints the decisions of a stage below its line, each text once.
type notes struct {
	w    io.Writer
	all  bool
	held []note
}

// note is a decision and the tensors it is about.
type note struct {
	text, first string
	n           int
}

func (n *notes) add(tensor, text string) {
	for i := range n.held {
		if n.held[i].text == text && !n.all {
			n.held[i].n++
			return
		}
	}
	n.held = append(n.held, note{text, tensor, 1})
}

func (n *notes) flush() {
	for i, x := range n.held {
		if i == mostNotes && !n.all {
			fmt.Fprintf(n.w, "    note  and %d more like these (-v shows all)\n", len(n.held)-mostNotes)
			break
		}
		line := x.text
		if x.first != "" {
			if x.n > 1 {
				x.first += fmt.Sprintf(" and %d more", x.n-1)
			}
			line = x.first + "  " + line
		}
		fmt.Fprintf(n.w, "    note  %s\n", line)
	}
	n.held = nil
}

// stage is what the current stage has done.
type stage struct {
	name, unit  string
	total, done int64
	start       time.Time
}

func (s *stage) begin(name string, total int64, unit string) {
	*s = stage{name: name, unit: unit, total: total, start: time.Now()}
}

// amount spells a quantity of the stage's unit.
func (s *stage) amount(n int64) string {
	if s.unit == "bytes" {
		return human.Bytes(n)
	}
	return human.Thousands(n) + " " + s.unit
}

// summary is the line of a finished stage: amount, time, speed when it says something.
func (s *stage) summary() string {
	took := time.Since(s.start)
	line := fmt.Sprintf("%-14s", s.name)
	if n := max(s.done, s.total); n > 0 {
		line += fmt.Sprintf("  %14s", s.amount(n))
	} else {
		line += fmt.Sprintf("  %14s", "")
	}
	line += fmt.Sprintf("  %7s", human.Duration(took))
	if s.unit == "tokens" && s.done > 0 && took > 100*time.Millisecond {
		line += fmt.Sprintf("   %s tok/s", human.Count(int64(float64(s.done)/took.Seconds())))
	}
	return line
}

// eta guesses the time left from the speed so far; empty while it would be a wild guess.
func (s *stage) eta() string {
	took := time.Since(s.start)
	if s.total <= 0 || s.done <= 0 || s.done >= s.total || took < 2*time.Second {
		return ""
	}
	return "eta " + human.Duration(time.Duration(float64(took)*float64(s.total-s.done)/float64(s.done)))
}

// plainSink writes one line for every stage that ends, for logs; a long stage also says every
// half minute how far it is. There are no escape codes.
type plainSink struct {
	mu    sync.Mutex
	notes notes
	cur   stage
	said  time.Time
}

func (p *plainSink) Stage(name string, total int64, unit string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
	p.cur.begin(name, total, unit)
	p.said = time.Now()
}

func (p *plainSink) Add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cur.done += n
	if time.Since(p.said) < 30*time.Second {
		return
	}
	p.said = time.Now()
	fmt.Fprintf(p.notes.w, "  %-14s  %s", p.cur.name, p.cur.amount(p.cur.done))
	if p.cur.total > 0 {
		fmt.Fprintf(p.notes.w, " of %s  %s", p.cur.amount(p.cur.total), p.cur.eta())
	}
	fmt.Fprintln(p.notes.w)
}

func (p *plainSink) Note(tensor, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notes.add(tensor, text)
}

func (p *plainSink) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
	p.cur = stage{}
}

func (p *plainSink) end() {
	if p.cur.name != "" {
		fmt.Fprintln(p.notes.w, "  "+p.cur.summary())
	}
	p.notes.flush()
}

// barSink draws a bar for the running stage and leaves a line for each finished one.
type barSink struct {
	mu    sync.Mutex
	notes notes
	cur   stage
	bar   *progressbar.ProgressBar
	spin  chan struct{} // closed to stop the spinner of a stage without a total
	last  time.Time
	color bool
	width int
}

func (b *barSink) Stage(name string, total int64, unit string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end()
	b.cur.begin(name, total, unit)
	if total <= 0 {
		total = -1 // a spinner
	}
	theme := progressbar.Theme{Saucer: "━", SaucerHead: "╸", SaucerPadding: " "}
	if b.color {
		theme = progressbar.Theme{Saucer: "[green]━[reset]", SaucerHead: "[green]╸[reset]", SaucerPadding: " "}
	}
	b.bar = progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(b.notes.w),
		progressbar.OptionEnableColorCodes(b.color),
		progressbar.OptionSetTheme(theme),
		progressbar.OptionSetWidth(max(8, min(30, b.width-56))),
		progressbar.OptionSetDescription(fmt.Sprintf("  %-14s", name)),
		progressbar.OptionSetElapsedTime(false),
		progressbar.OptionSetPredictTime(false),
		progressbar.OptionThrottle(80*time.Millisecond),
		progressbar.OptionSetRenderBlankState(true),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetSpinnerChangeInterval(0), // the library's own would go on drawing after the stage
	)
	if total < 0 {
		b.spin = make(chan struct{})
		go b.turn(b.bar, b.spin)
	}
	b.last = time.Now()
}

func (b *barSink) Add(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cur.done += n
	if b.bar == nil {
		return
	}
	if now := time.Now(); now.Sub(b.last) > 200*time.Millisecond {
		b.last = now
		b.bar.Describe(fmt.Sprintf("  %-14s %s", b.cur.name, b.cur.eta()))
	}
	if b.cur.total <= 0 || b.cur.done < b.cur.total { // the library ends the line at 100 %; end does that here
		_ = b.bar.Set64(b.cur.done) // drawing only
	}
}

func (b *barSink) Note(tensor, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notes.add(tensor, text)
}

func (b *barSink) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end()
	b.cur, b.bar = stage{}, nil
}

// turn draws the spinner of one stage until it ends.
func (b *barSink) turn(bar *progressbar.ProgressBar, stop <-chan struct{}) {
	tick := time.NewTicker(150 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		b.mu.Lock()
		if b.bar == bar {
			_ = bar.RenderBlank() // drawing only
		}
		b.mu.Unlock()
	}
}

func (b *barSink) end() {
	if b.spin != nil {
		close(b.spin)
		b.spin = nil
	}
	if b.bar != nil {
		_ = b.bar.Clear() // drawing only
		mark := "━━━━━━━━"
		if b.color {
			mark = "\x1b[32m" + mark + "\x1b[0m"
		}
		if b.width < 66 {
			mark = "" // the line must not wrap
		}
		fmt.Fprintf(b.notes.w, "\r\x1b[K  %s %s\n", mark, b.cur.summary())
	}
	b.notes.flush()
}

// jsonSink writes one JSON event a line: stage, progress (at most five a second), note, done,
// error. Times are seconds since the stage began.
type jsonSink struct {
	mu   sync.Mutex
	enc  *json.Encoder
	cur  stage
	said time.Time
}

type event struct {
	Event   string   `json:"event"`
	Stage   string   `json:"stage,omitempty"`
	Unit    string   `json:"unit,omitempty"`
	Total   int64    `json:"total,omitempty"`
	Done    int64    `json:"done,omitempty"`
	Seconds float64  `json:"seconds,omitempty"`
	Tensor  string   `json:"tensor,omitempty"`
	Text    string   `json:"text,omitempty"`
	Code    int      `json:"code,omitempty"`
	More    int      `json:"more,omitempty"` // errors like it that follow
	Hints   []string `json:"hints,omitempty"`
}

func (j *jsonSink) emit(e event) { _ = j.enc.Encode(e) } // a closed stderr must not stop the work

func (j *jsonSink) Stage(name string, total int64, unit string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.end()
	j.cur.begin(name, total, unit)
	j.said = time.Now()
	j.emit(event{Event: "stage", Stage: name, Unit: unit, Total: total})
}

func (j *jsonSink) Add(n int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.cur.done += n
	if time.Since(j.said) >= 200*time.Millisecond {
		j.said = time.Now()
		j.emit(event{Event: "progress", Stage: j.cur.name, Unit: j.cur.unit, Total: j.cur.total, Done: j.cur.done, Seconds: time.Since(j.cur.start).Seconds()})
	}
}

func (j *jsonSink) Note(tensor, text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.emit(event{Event: "note", Stage: j.cur.name, Tensor: tensor, Text: text})
}

func (j *jsonSink) failed(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, g := range kinds(flatten(err)) {
		text, hints := describe(g.first)
		j.emit(event{Event: "error", Text: text, More: g.more, Hints: hints, Code: exitCode(err)})
	}
}

func (j *jsonSink) stop() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.end()
	j.cur = stage{}
}

func (j *jsonSink) end() {
	if j.cur.name != "" {
		j.emit(event{Event: "done", Stage: j.cur.name, Unit: j.cur.unit, Total: j.cur.total, Done: j.cur.done, Seconds: time.Since(j.cur.start).Seconds()})
	}
}
