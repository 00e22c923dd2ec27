package monitor

import (
	"fmt"
	"strings"

	"github.com/churnstream/churnstream/scoring"
)

// moneyFeature returns the position of the feature that says what a customer pays:
// the one that was asked for, or the first actionable number whose unit is a
// currency; −1 for none.
func moneyFeature(spec *scoring.Spec, asked string) (int, error) {
	switch asked {
	case "none":
		return -1, nil
	case "":
		for i := range spec.Len() {
			if f := spec.Feature(i); f.Kind == scoring.Numeric && f.Actionable && isCurrency(f.Unit) {
				return i, nil
			}
		}
		return -1, nil
	}
	i, ok := spec.Index(asked)
	if !ok || spec.Feature(i).Kind != scoring.Numeric {
		return -1, fmt.Errorf("--money-feature %s: no numeric feature has this name", asked)
	}
	return i, nil
}

func isCurrency(unit string) bool {
	return len(unit) == 3 && strings.Contains(currencies, " "+unit+" ")
}

// currencies are the codes of ISO 4217 for money that people pay with.
const currencies = " AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD" +
	" CAD CDF CHF CLF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF" +
	" GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR" +
	" LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK" +
	" PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT" +
	" TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG "
