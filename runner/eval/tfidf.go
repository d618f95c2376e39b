package eval

import (
	"strconv"
	"strings"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "TfIdfVectorizer", Plan: planTfIdf})
}

// grams counts sequences of words of a vocabulary.
type grams struct {
	column   map[string]int // of the result, by the words of a gram
	min, max int            // words of a gram
	skip     int            // words that may lie between two of a gram
	width    int
	mode     string
	weights  []float32
}

// gramKey joins words so that different lists never look alike.
func gramKey(words []string) string {
	var b strings.Builder
	for _, w := range words {
		b.WriteString(strconv.Quote(w))
	}
	return b.String()
}

// words are the elements of a tensor of text or integers as text.
func words(t *graph.Tensor) ([]string, error) {
	if t.Type == graph.String {
		return t.Strings, nil
	}
	list, err := t.Ints()
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = strconv.FormatInt(v, 10)
	}
	return out, err
}

func newGrams(c *Call) (*grams, error) {
	n := c.Node
	g := &grams{
		column: map[string]int{}, min: n.Int("min_gram_length", 1), max: n.Int("max_gram_length", 1),
		skip: n.Int("max_skip_count", 0), mode: n.Str("mode", "TF"), weights: n.Attrs["weights"].Floats,
	}
	pool := n.Attrs["pool_strings"].Strings
	if n.Has("pool_int64s") {
		pool = pool[:0:0]
		for _, v := range n.Attrs["pool_int64s"].Ints {
			pool = append(pool, strconv.FormatInt(v, 10))
		}
	}
	if n.Has("pool_int64s") == (c.Type(0) == graph.String) {
		return nil, c.Fault("a vocabulary of another type than %s", c.Type(0))
	}
	starts, columns := n.Ints("ngram_counts"), n.Ints("ngram_indexes")
	if g.min < 1 || g.max < g.min || g.skip < 0 || g.mode != "TF" && g.mode != "IDF" && g.mode != "TFIDF" {
		return nil, c.Fault("grams of %d to %d words, skip %d, mode %q", g.min, g.max, g.skip, g.mode)
	}
	for _, k := range columns {
		if k < 0 || k > graph.MaxElems/16 {
			return nil, c.Fault("ngram_indexes has %d", k)
		}
		g.width = max(g.width, k+1)
	}
	id := 0
	for i, start := range starts {
		end, size := len(pool), i+1
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		if start < 0 || end < start || end > len(pool) || (end-start)%size != 0 {
			return nil, c.Fault("ngram_counts %v of %d words", starts, len(pool))
		}
		for ; start < end; start += size {
			if id >= len(columns) {
				return nil, c.Fault("%d ngram_indexes, there are more grams", len(columns))
			}
			if size >= g.min && size <= g.max {
				g.column[gramKey(pool[start:start+size])] = columns[id]
			}
			id++
		}
	}
	g.max = min(g.max, len(starts))
	if len(g.weights) > 0 && g.mode != "TF" && len(g.weights) < g.width {
		return nil, c.Fault("%d weights of %d columns", len(g.weights), g.width)
	}
	return g, nil
}

// planTfIdf counts, for every row of words, how often grams occur in it.
func planTfIdf(c *Call) (Step, error) {
	in := c.Shape(0)
	if len(in) > 2 || c.Type(0) != graph.String && c.Type(0) != graph.Int32 && c.Type(0) != graph.Int64 {
		return Step{}, c.Fault("elements of type %s, shape %v", c.Type(0), in)
	}
	g, err := Once(c, "grams", func() (*grams, error) { return newGrams(c) })
	if err != nil {
		return Step{}, err
	}
	rows, length, shape := 1, graph.Elems(in), []int{g.width}
	if len(in) == 2 {
		rows, length, shape = in[0], in[1], []int{in[0], g.width}
	}
	if err := graph.CheckShape(shape); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	return Step{Out: []Spec{Out(graph.Float32, shape...)}, Run: func(w *Worker, ts, out []*graph.Tensor) error {
		list, err := words(ts[0])
		if err != nil {
			return err
		}
		y := elems[float32](out[0])
		w.Range(rows, 64*length, func(lo, hi int) {
			for r := lo; r < hi; r++ {
				g.count(y[r*g.width:(r+1)*g.width], list[r*length:(r+1)*length])
			}
		})
		return nil
	}}, nil
}

// count fills a row of the result.
func (g *grams) count(row []float32, text []string) {
	clear(row)
	gram := make([]string, 0, g.max)
	for size := g.min; size <= g.max; size++ {
		for step := 1; step <= g.skip+1 && (size-1)*step < len(text); step++ {
			if size == 1 && step > 1 { // one word is the same whatever is skipped
				break
			}
			for first := 0; first+(size-1)*step < len(text); first++ {
				gram = gram[:0]
				for i := range size {
					gram = append(gram, text[first+i*step])
				}
				if k, ok := g.column[gramKey(gram)]; ok {
					row[k]++
				}
			}
		}
	}
	for i, v := range row {
		if g.mode == "IDF" && v > 0 {
			row[i] = 1
		}
		if g.mode != "TF" && len(g.weights) > 0 {
			row[i] *= g.weights[i]
		}
	}
}
