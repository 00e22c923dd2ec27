package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/churnstream/churnstream/internal/explain"
	"github.com/churnstream/churnstream/internal/files"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

type explainCommand struct {
	Model    string            `help:"Model as JSON: a payload from churnstream models show, or any file of that form." required:"" type:"existingfile" placeholder:"FILE"`
	Customer string            `help:"Customer's attributes as a flat JSON object; - reads them from standard input." required:"" placeholder:"FILE"`
	Change   map[string]string `help:"What if: show the customer with this attribute changed, too; can be given for several. An empty value means not known." placeholder:"ATTRIBUTE=VALUE" mapsep:"none"`
	Schema   string            `help:"Avro schema (.avsc) of the attributes, for their labels; without it they are known by the model's names." type:"existingfile" placeholder:"FILE"`
	JSON     bool              `name:"json" help:"Print JSON instead of a table."`
}

// Help is shown by churnstream explain --help.
func (explainCommand) Help() string {
	return `Explains one customer's churn probability by a model in a file: for every feature, exact LIME and Shapley weights on the probability scale, and the contribution on the log-odds scale. Needs no Kafka. schemas/model.schema.json describes the model's form, docs/explanations.md what the weights mean.

Examples:
  churnstream models show 3 --payload > model.json
  churnstream explain --model model.json --customer customer.json
  churnstream explain --model model.json --customer customer.json --change 'Contract=Two year' --change tenure=12
  jq '.cases[0].customer' reference.json | churnstream explain --model reference.json --customer - --json`
}

// maxCustomerBytes bounds what is read as one customer.
const maxCustomerBytes = 1 << 20

func (c *explainCommand) Run(out io.Writer) error {
	data, err := files.Read(c.Model, scoring.MaxModelBytes)
	if err != nil {
		return fmt.Errorf("--model: %w", err)
	}
	model, err := scoring.ParseModel(data)
	if err != nil {
		return fmt.Errorf("--model %s: %w", c.Model, err)
	}
	var set *schemas.Set // of the model
	if c.Schema != "" {
		if set, err = schemas.FromFile(c.Schema); err != nil {
			return fmt.Errorf("--schema: %w", err)
		}
	}
	explainer, err := explain.New(model, set)
	if err != nil {
		return fmt.Errorf("--model %s: %w", c.Model, err)
	}
	customer, err := c.customer()
	if err != nil {
		return fmt.Errorf("--customer %s: %w", c.Customer, err)
	}
	x, err := explainer.Customer(customer)
	if err != nil {
		return fmt.Errorf("--customer %s: %w", c.Customer, err)
	}
	result, err := explainer.Explain(x, c.Change)
	if err != nil {
		return fmt.Errorf("--change: %w", err)
	}
	if c.JSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(result)
	}
	return result.Print(out)
}

func (c *explainCommand) customer() ([]byte, error) {
	if c.Customer == "-" {
		return files.ReadAll(os.Stdin, maxCustomerBytes)
	}
	return files.Read(c.Customer, maxCustomerBytes)
}
