package schemas

// MarkerKey is the key of markers: tombstones by which a producer makes a
// partition its own.
const MarkerKey = "\x00fence"

// ProgressKey is the key of the scorer's markers of progress, which have a
// value: compaction leaves the last.
const ProgressKey = "\x00progress"

// IsReservedKey reports whether a record's key begins with a zero byte. Such
// keys are for records between processes of ours, markers and notes; no
// customer and no model version has one.
func IsReservedKey[K ~string | ~[]byte](key K) bool { return len(key) > 0 && key[0] == 0 }
