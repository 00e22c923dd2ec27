package scoring

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
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
