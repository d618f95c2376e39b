package kernels

import "unsafe"

// RowStats describes one row of logits.
type RowStats struct {
	Max       float32 // largest logit
	ArgMax    int     // its index, the lowest when several are equal; -1 for an empty row
	LogSumExp float64 // ln(sum(e^logit)), nats; logit - LogSumExp is the log-probability
}

// PairStats compares two rows of logits over the same vocabulary.
type PairStats struct {
	P, Q RowStats
	KL   float64 // Kullback-Leibler divergence KL(p||q) of the softmax distributions, nats
}

// statsBlock is the most logits in one call of a kernel; sums of blocks are added in order.
const statsBlock = 1 << 14

type sumExpArgs struct {
	p, q               unsafe.Pointer
	n                  int
	topP, topQ         float32
	sumP, sumQ, sumDif float64
}

// LogitStats reads a row of logits. Sums and exponentials are in double precision. A NaN among the
// logits makes LogSumExp NaN.
func (s *Set) LogitStats(row []float32) RowStats {
	st := s.top(row)
	var sum float64
	for lo := 0; lo < len(row); lo += statsBlock {
		part := row[lo:min(lo+statsBlock, len(row))]
		if s.code == nil {
			sum += sumExpPortable(part, st.Max)
			continue
		}
		args := sumExpArgs{p: at(part), n: len(part), topP: st.Max}
		s.code.call(fnSumExp, unsafe.Pointer(&args))
		sum += args.sumP
	}
	st.LogSumExp = logOf(sum, st.Max)
	return st
}

// LogitPair reads two rows of logits of the same length and compares their distributions. Equal
// rows have a divergence of exactly 0.
func (s *Set) LogitPair(p, q []float32) PairStats {
	same("logits", len(p), len(q))
	st := PairStats{P: s.top(p), Q: s.top(q)}
	var sp, sq, cross float64
	for lo := 0; lo < len(p); lo += statsBlock {
		a, b := p[lo:min(lo+statsBlock, len(p))], q[lo:min(lo+statsBlock, len(q))]
		if s.code == nil {
			x, y, z := sumExpPairPortable(a, b, st.P.Max, st.Q.Max)
			sp, sq, cross = sp+x, sq+y, cross+z
			continue
		}
		args := sumExpArgs{p: at(a), q: at(b), n: len(a), topP: st.P.Max, topQ: st.Q.Max}
		s.code.call(fnSumExpPair, unsafe.Pointer(&args))
		sp, sq, cross = sp+args.sumP, sq+args.sumQ, cross+args.sumDif
	}
	st.P.LogSumExp, st.Q.LogSumExp = logOf(sp, st.P.Max), logOf(sq, st.Q.Max)
	// sum p ((x - lseP) - (y - lseQ)); rounding can leave a tiny negative number, which a
	// divergence never is
	if kl := cross/sp - (st.P.LogSumExp - st.Q.LogSumExp); kl > 0 || kl != kl {
		st.KL = kl
	}
	return st
}

func logOf(sum float64, top float32) float64 { return float64(top) + log64(sum) }

// top finds the largest logit and where it first stands.
func (s *Set) top(row []float32) RowStats {
	st := RowStats{Max: s.Max(row), ArgMax: -1}
	if len(row) == 0 {
		return st
	}
	st.ArgMax = 0 // a row of NaN has no largest element; any answer is as good
	if s.code == nil {
		for i, v := range row {
			if v == st.Max {
				st.ArgMax = i
				break
			}
		}
		return st
	}
	args := findArgs{x: at(row), n: len(row), value: st.Max}
	s.code.call(fnFind, unsafe.Pointer(&args))
	if args.at < len(row) {
		st.ArgMax = args.at
	}
	return st
}

type findArgs struct {
	x     unsafe.Pointer
	n     int
	value float32
	_     float32
	at    int
}

// Deviation says how far y is from x, in sums over their elements.
type Deviation struct {
	Signal float64 // of x^2
	Other  float64 // of y^2
	Dot    float64 // of x y
	Noise  float64 // of (x-y)^2
	Max    float64 // the largest |x-y|
}

type deviationArgs struct {
	x, y unsafe.Pointer
	n    int
	d    Deviation
}

// Deviation compares two rows of the same length. Sums are in double precision; a NaN in either row
// makes Noise and Max NaN.
func (s *Set) Deviation(x, y []float32) (d Deviation) {
	same("rows", len(x), len(y))
	for lo := 0; lo < len(x); lo += statsBlock {
		a, b := x[lo:min(lo+statsBlock, len(x))], y[lo:min(lo+statsBlock, len(y))]
		if s.code == nil {
			d.Add(deviationPortable(a, b))
			continue
		}
		args := deviationArgs{x: at(a), y: at(b), n: len(a)}
		s.code.call(fnDeviation, unsafe.Pointer(&args))
		d.Add(args.d)
	}
	return d
}

// Add joins what is known of two parts of a row, or of two rows.
func (d *Deviation) Add(e Deviation) {
	d.Signal += e.Signal
	d.Other += e.Other
	d.Dot += e.Dot
	d.Noise += e.Noise
	d.Max = max(d.Max, e.Max)
	if d.Noise != d.Noise {
		d.Max = d.Noise
	}
}
