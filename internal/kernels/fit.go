package kernels

import "unsafe"

// Lanes is the number of sub-blocks whose scales are searched side by side.
const Lanes = 8

// Fit is the work space of a scale search: Lanes sub-blocks of up to 32 elements, element by
// element, so that each lane of a vector holds one sub-block.
type Fit struct {
	X, W  [32][Lanes]float32 // values, and the weight of an error on each, not negative
	Codes [32][Lanes]float32 // found: integers, not negative
	Scale [Lanes]float32     // found
	Minus [Lanes]float32     // found by FitAffine

	tried [32][Lanes]float32
}

type fitAffineArgs struct {
	x, w, codes, tried, scale, minus unsafe.Pointer
	n, steps, mad                    int64
	top, from, step                  float32
}

type fitSymmetricArgs struct {
	x, w, codes, tried, scale unsafe.Pointer
	n                         int64
	most                      float32
}

// FitAffine searches x ~ scale*code - minus with codes 0..top over the inverse scales
// (from + step*k + top)/(max-min), k = 0..steps, for n elements in each lane; mad weighs absolute
// instead of squared errors. It is the search of package storage with the same bits: no level fuses
// or reorders anything here. It does nothing and reports false at the Portable level.
func (s *Set) FitAffine(f *Fit, n int, top, from, step float32, steps int, mad bool) bool {
	if s.code == nil {
		return false
	}
	_ = f.X[:n]
	args := fitAffineArgs{
		x: unsafe.Pointer(&f.X), w: unsafe.Pointer(&f.W), codes: unsafe.Pointer(&f.Codes), tried: unsafe.Pointer(&f.tried),
		scale: unsafe.Pointer(&f.Scale), minus: unsafe.Pointer(&f.Minus), n: int64(n), steps: int64(steps), top: top, from: from, step: step,
	}
	if mad {
		args.mad = 1
	}
	s.code.call(fnFitAffine, unsafe.Pointer(&args))
	return true
}

// FitSymmetric searches x ~ scale*(code-most) with codes 0..2*most-1 over 19 scales around the one
// that maps the element of largest magnitude to code 0; else as FitAffine.
func (s *Set) FitSymmetric(f *Fit, n int, most float32) bool {
	if s.code == nil {
		return false
	}
	_ = f.X[:n]
	args := fitSymmetricArgs{
		x: unsafe.Pointer(&f.X), w: unsafe.Pointer(&f.W), codes: unsafe.Pointer(&f.Codes), tried: unsafe.Pointer(&f.tried),
		scale: unsafe.Pointer(&f.Scale), n: int64(n), most: most,
	}
	s.code.call(fnFitSymmetric, unsafe.Pointer(&args))
	return true
}
