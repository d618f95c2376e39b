package storage

// Superblock types (ggml/src/ggml-common.h, block_q2_K to block_q6_K). All encoders end the same
// way: the sub-block scales are rounded to what the block stores, and then the codes are chosen
// again for the stored scales; a sub-block whose stored scale is 0 keeps the codes of its first fit,
// which no decoder can see but the bytes show.

// codes256 is one code for each element of a superblock, not negative.
type codes256 [super]uint8

// recode chooses the codes of one sub-block for w = d*q - m with q in [0,n].
func recode(q []uint8, x []float32, d, m float32, n int) {
	if d == 0 {
		return
	}
	q = q[:len(x)]
	for i, v := range x {
		q[i] = uint8(clamp(nearest((v+m)/d), 0, n))
	}
}

// recodeSigned chooses the codes of one sub-block for w = d*(q-n) with q-n in [-n,n-1].
func recodeSigned(q []uint8, x []float32, d float32, n int) {
	if d == 0 {
		return
	}
	q = q[:len(x)]
	for i, v := range x {
		q[i] = uint8(clamp(nearest(v/d), -n, n-1) + n)
	}
}

// setSuper copies codes of a Grid, shifted by zero.
func setSuper(l *codes256, q []int8, zero int8) {
	q = q[:super]
	for i := range l {
		l[i] = uint8(q[i] + zero)
	}
}

// packPairs stores two low bits of each code: of every 128 elements, byte i of 32 holds elements i,
// i+32, i+64 and i+96, lowest bits first. unpackPairs reads them.
func packPairs(dst []byte, l *codes256) {
	for h := range 2 {
		d, s := dst[32*h:32*h+32], l[128*h:128*h+128]
		for i := range d {
			d[i] = s[i]&3 | s[i+32]&3<<2 | s[i+64]&3<<4 | s[i+96]&3<<6
		}
	}
}

func unpackPairs(l *codes256, src []byte) {
	for h := range 2 {
		s, d := src[32*h:32*h+32], l[128*h:128*h+128]
		for i, b := range s {
			d[i], d[i+32], d[i+64], d[i+96] = b&3, b>>2&3, b>>4&3, b>>6
		}
	}
}

// packHalves stores low nibbles: of every 64 elements, byte i of 32 holds elements i (low) and i+32.
func packHalves(dst []byte, l *codes256) {
	for g := range 4 {
		d, s := dst[32*g:32*g+32], l[64*g:64*g+64]
		for i := range d {
			d[i] = s[i]&15 | s[i+32]<<4
		}
	}
}

func unpackHalves(l *codes256, src []byte) {
	for g := range 4 {
		s, d := src[32*g:32*g+32], l[64*g:64*g+64]
		for i, b := range s {
			d[i], d[i+32] = b&15, b>>4
		}
	}
}

// packSixes stores eight pairs of 6-bit scale and minimum codes in 12 bytes: the first four whole in
// the low bits of bytes 0-3 and 4-7; of the others the low nibbles share bytes 8-11 and the top two
// bits lie above the first four.
func packSixes(dst []byte, sc, mn *[8]uint8) {
	_ = dst[11]
	for j := range 4 {
		dst[j] = sc[j] | sc[j+4]>>4<<6
		dst[j+4] = mn[j] | mn[j+4]>>4<<6
		dst[j+8] = sc[j+4]&15 | mn[j+4]<<4
	}
}

func unpackSixes(sc, mn *[8]uint8, src []byte) {
	_ = src[11]
	for j := range 4 {
		sc[j], mn[j] = src[j]&63, src[j+4]&63
		sc[j+4] = src[j+8]&15 | src[j]>>6<<4
		mn[j+4] = src[j+8]>>4 | src[j+4]>>6<<4
	}
}
