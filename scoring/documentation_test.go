package scoring

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestExportedNamesAreDocumented reads this package's own source: everything a
// user can name says what it is.
func TestExportedNamesAreDocumented(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	check := func(file string, name *ast.Ident, docs ...*ast.CommentGroup) {
		if !name.IsExported() {
			return
		}
		seen++
		for _, d := range docs {
			if d.Text() != "" {
				return
			}
		}
		t.Errorf("%s: %s is not documented", file, name.Name)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range tree.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				check(f.Name(), d.Name, d.Doc)
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.ValueSpec:
						for _, name := range s.Names {
							check(f.Name(), name, s.Doc, s.Comment, d.Doc)
						}
					case *ast.TypeSpec:
						check(f.Name(), s.Name, s.Doc, d.Doc)
						if fields, ok := s.Type.(*ast.StructType); ok {
							var above *ast.CommentGroup // one comment may be about several fields
							for _, field := range fields.Fields.List {
								if field.Doc != nil {
									above = field.Doc
								}
								for _, name := range field.Names {
									check(f.Name(), name, field.Doc, field.Comment, above)
								}
							}
						}
					}
				}
			}
		}
	}
	if seen < 50 {
		t.Errorf("only %d exported names found; is this the right directory?", seen)
	}
}

// TestReadmeShowsTheExample keeps the README's Go code what Example compiles
// and runs.
func TestReadmeShowsTheExample(t *testing.T) {
	read := func(path string) string {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(read(filepath.Join("..", "README.md")), -1)
	if len(blocks) != 1 {
		t.Fatalf("%d blocks of Go in the README, not 1", len(blocks))
	}
	indent := regexp.MustCompile(`(?m)^[ \t]+`)
	if example := indent.ReplaceAllString(read("example_test.go"), ""); !strings.Contains(example, indent.ReplaceAllString(blocks[0][1], "")) {
		t.Errorf("Example does not contain the README's\n%s", blocks[0][1])
	}
}
