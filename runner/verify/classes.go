package verify

import (
	"cmp"
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/student"
)

// row is one labelled sample as a model and its package decide it.
type row struct {
	label int
	took  [2]int     // class of original and package
	score [2]float64 // of the class 1 where there are two, for the area under the curve
}

// threshold is the score from which a network with a single output says yes: it is a probability.
const threshold = 0.5

// decide is the class that scores stand for, and how much they speak for class 1 of two.
func decide(x []float64) (class int, score float64) {
	if len(x) == 1 {
		if x[0] >= threshold {
			class = 1
		}
		return class, x[0]
	}
	if class = rank(x, -1); len(x) == 2 {
		score = x[1] - x[0]
	}
	return class, score
}

// Pair is a figure of the original and of the package.
type Pair struct {
	Original float64 `json:"original"`
	Package  float64 `json:"package"`
}

// areas is the area under the receiver operating characteristic of both models, the probability that a sample of
// class 1 scores above one of class 0, and what is known of the difference. ok is false when a class is missing.
//
// Both see the same samples, so that their areas are correlated: the variance of the difference is that of
// DeLong, DeLong and Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver operating
// characteristic curves".
func areas(rows []row) (p Pair, drop Evidence, ok bool) {
	var index [2][]int
	for i, r := range rows {
		if r.label < 0 || r.label > 1 {
			return p, drop, false
		}
		index[r.label] = append(index[r.label], i)
	}
	if len(index[0]) == 0 || len(index[1]) == 0 {
		return p, drop, false
	}
	var parts [2][]float64 // by class: original minus package, of what each sample adds
	for class := range parts {
		parts[class] = make([]float64, len(index[class]))
	}
	both := [2]*float64{&p.Original, &p.Package}
	for side, area := range both {
		for class := range index {
			// among all samples, among those of its class
			all, own := midranks(rows, side, append(slices.Clone(index[class]), index[1-class]...)), midranks(rows, side, index[class])
			for k := range index[class] {
				v := (all[k] - own[k]) / float64(len(index[1-class])) // share of the other class that it is above
				if class == 0 {
					v = 1 - v
				}
				if class == 1 {
					*area += v / float64(len(index[1]))
				}
				parts[class][k] += float64(1-2*side) * v
			}
		}
	}
	square := 0.0
	for _, x := range parts {
		mean := 0.0
		for _, v := range x {
			mean += v / float64(len(x))
		}
		for _, v := range x {
			square += (v - mean) * (v - mean) / float64(len(x)) / max(1, float64(len(x)-1))
		}
	}
	drop.Value, drop.Units = p.Original-p.Package, min(len(index[0]), len(index[1]))
	if drop.Units > 1 {
		drop.Resamples = student.Quantiles(drop.Units-1, quantiles)
		for i, t := range drop.Resamples {
			drop.Resamples[i] = drop.Value + t*math.Sqrt(square)
		}
	}
	return p, drop, true
}

// midranks are the ranks of some rows by score, from 1; equal scores share the mean of theirs.
func midranks(rows []row, side int, list []int) []float64 {
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	score := func(k int) float64 { return rows[list[k]].score[side] }
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(score(a), score(b)) })
	ranks := make([]float64, len(list))
	for i := 0; i < len(order); {
		j := i + 1
		for j < len(order) && score(order[j]) == score(order[i]) {
			j++
		}
		for _, k := range order[i:j] {
			ranks[k] = float64(i+j+1) / 2
		}
		i = j
	}
	return ranks
}

// confusion counts decisions by class.
type confusion struct{ hit, missed, wrong []float64 }

// f1 is 2 precision recall / (precision + recall) of a class; 0 where nothing was right.
func (c *confusion) f1(class int) float64 {
	if c.hit[class] == 0 {
		return 0
	}
	return 2 * c.hit[class] / (2*c.hit[class] + c.missed[class] + c.wrong[class])
}

// add counts a decision n times.
func (c *confusion) add(label, took int, n float64) {
	if label == took {
		c.hit[label] += n
		return
	}
	c.missed[label] += n
	c.wrong[took] += n
}

// f1Scores is F1 of both models: of class 1 where there are two classes, else the mean over the classes that
// labels or decisions name (macro F1). What is known of the difference comes from leaving out one row at a time
// (jackknife), paired.
func f1Scores(rows []row, classes int) (p Pair, drop Evidence) {
	var f [2]func(r *row) float64 // without a row, nil for with all of them
	for side := range f {
		c := confusion{make([]float64, classes), make([]float64, classes), make([]float64, classes)}
		named := make([]bool, classes)
		for _, r := range rows {
			c.add(r.label, r.took[side], 1)
			named[r.label], named[r.took[side]] = true, true
		}
		one := func(class int) float64 { return c.f1(class) }
		if classes == 2 {
			f[side] = func(r *row) float64 {
				if r == nil {
					return one(1)
				}
				c.add(r.label, r.took[side], -1)
				defer c.add(r.label, r.took[side], 1)
				return one(1)
			}
			continue
		}
		sum, count := 0.0, 0.0
		for class, is := range named {
			if is {
				sum += one(class)
				count++
			}
		}
		f[side] = func(r *row) float64 {
			if r == nil {
				return sum / count
			}
			a, b := r.label, r.took[side]
			before := one(a)
			if b != a {
				before += one(b)
			}
			c.add(a, b, -1)
			after := one(a)
			if b != a {
				after += one(b)
			}
			c.add(a, b, 1)
			return (sum - before + after) / count
		}
	}
	p.Original, p.Package = f[0](nil), f[1](nil)
	n := float64(len(rows))
	drop.Value, drop.Units = p.Original-p.Package, len(rows)
	values := make([]float64, len(rows))
	for i := range rows {
		values[i] = n*drop.Value - (n-1)*(f[0](&rows[i])-f[1](&rows[i]))
	}
	drop.Resamples = estimateRatio(values, slices.Repeat([]float64{1}, len(values))).at
	return p, drop
}
