package models

import (
	"encoding/json"
	"fmt"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// Describe returns a version with what follows from its model: the payload and
// its hash, the fingerprint of set's specification, and the thresholds, which
// stand in the version for readers that do not open the payload. Open refuses a
// version in which these do not agree. All else is the caller's to fill in.
func Describe(set *schemas.Set, model *scoring.Model) (schemas.ModelVersion, error) {
	payload, err := json.Marshal(model)
	if err != nil {
		return schemas.ModelVersion{}, fmt.Errorf("encode a model: %w", err)
	}
	thresholds := model.RiskThresholds()
	return schemas.ModelVersion{
		Payload:            string(payload),
		SHA256:             SHA256(string(payload)),
		FeatureFingerprint: set.Spec().Fingerprint(),
		MediumThreshold:    thresholds.Medium,
		HighThreshold:      thresholds.High,
	}, nil
}
