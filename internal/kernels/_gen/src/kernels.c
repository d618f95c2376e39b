// One translation unit for a level, so that the blob has one pool of constants.
#include "gemm.c"
#include "rows.c"
#include "decode.c"
#include "dotrow.c"
#include "search.c"
