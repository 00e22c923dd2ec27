package schemas

import "testing"

func TestIsReservedKey(t *testing.T) {
	for key, want := range map[string]bool{
		MarkerKey: true, ProgressKey: true, "\x00": true, "\x00redrive": true, "": false, "anna": false, "0": false, "a\x00": false,
	} {
		if IsReservedKey(key) != want || IsReservedKey([]byte(key)) != want {
			t.Errorf("%q: reserved is not %v", key, want)
		}
	}
	if IsReservedKey[[]byte](nil) {
		t.Error("no key is a reserved one")
	}
}
