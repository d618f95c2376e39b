package kernels

// decodePortable is the definition of a row of planes.
func (p *Planes) decodePortable(dst []float32, row int) {
	size, groups := PlaneBytes(p.Bits, p.Cols), p.groups()
	codes := p.Codes[row*size:][:size]
	for lo, g := 0, row*groups; lo < p.Cols; lo, g = lo+p.Group, g+1 {
		scale, zero := p.Scales[g], int(p.Zero)
		if p.Zeros != nil {
			zero = int(p.Zeros[g])
		}
		for t := lo; t < min(p.Cols, lo+p.Group); t++ {
			q := 0
			if p.Bits == 8 {
				q = int(codes[t])
			} else {
				q = int(codes[t/2] >> (t % 2 * 4) & 15)
			}
			dst[t] = scale * float32(q-zero)
		}
	}
}
