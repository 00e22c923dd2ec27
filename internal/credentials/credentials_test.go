package credentials

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("CHURN_TEST_SECRET", "from the environment")
	for _, c := range []struct{ file, want, problem string }{
		{"", "from the environment", ""},
		{file("unix", "from a file\n"), "from a file", ""},
		{file("dos", "from a file\r\n"), "from a file", ""},
		{file("blanks", " a b "), " a b ", ""},
		{file("empty", ""), "", "is empty"},
		{file("line", "\n"), "", "is empty"},
		{filepath.Join(dir, "none"), "", "no such file"},
	} {
		got, err := Secret("CHURN_TEST_SECRET", c.file)
		if got != c.want || (err == nil) != (c.problem == "") || err != nil && !strings.Contains(err.Error(), c.problem) {
			t.Errorf("%q: got %q, %v, want %q, %q", c.file, got, err, c.want, c.problem)
		}
	}
}
